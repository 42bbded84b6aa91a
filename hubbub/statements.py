"""SQL files: statements by name."""

import re


def load_statements(text: str) -> dict[str, str]:
    """The statements of a ``.sql`` file by the name in their ``-- name:`` line."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip().removesuffix(";") for part in parts[2::2]), strict=True))
