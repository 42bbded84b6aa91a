"""Put on the PYTHONPATH of a tortured system: leads its connections through the fault proxy, steps the store's clock,
plants faults. Python imports a module of this name at its start, so the product needs no switch.
"""

import os
import sys

_PROGRAMS = {"shards", "broker", "store"}

if sys.orig_argv[-2:-1] == ["-m"] and sys.orig_argv[-1] in _PROGRAMS and "TORTURE" in os.environ:
    from tests.fault.torture import inside

    inside.prepare(sys.orig_argv[-1])
