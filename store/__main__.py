"""``python -m store``: the store process, configured by the environment."""

import os
from functools import partial

from hubbub.runtime import lifecycle, logs
from hubbub.settings import SettingsError, from_environ
from store.app import open_store


def main() -> None:
    """Settings, app, life."""
    try:
        settings = from_environ(os.environ).store()
    except SettingsError as exc:
        lifecycle.refuse_to_start(str(exc))
    logs.configure(settings.name, level=settings.log_level, format=settings.log_format)
    lifecycle.run(partial(open_store, settings), name=settings.name)


if __name__ == "__main__":
    main()
