"""What every test shares: how long Hypothesis may think."""

import os

from hypothesis import HealthCheck, settings

# A loaded machine is slow, not wrong. In CI the examples are the same each time: a red build means a change.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=3_000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))
