"""``python -m shards``: a shard process, configured by the environment."""

import os
from functools import partial

from hubbub.runtime import lifecycle, logs
from hubbub.settings import SettingsError, from_environ, shard_index
from shards.app import open_shard


def main() -> None:
    """Settings, app, life."""
    try:
        settings = from_environ(os.environ).shard(shard_index(os.environ))
    except SettingsError as exc:
        lifecycle.refuse_to_start(str(exc))
    logs.configure(settings.name, level=settings.log_level, format=settings.log_format)
    lifecycle.run(partial(open_shard, settings), name=settings.name, deadline=25.0)


if __name__ == "__main__":
    main()
