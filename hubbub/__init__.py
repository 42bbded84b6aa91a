"""What every Hubbub process shares, and the command that starts them."""

__version__ = "0.1.0"
