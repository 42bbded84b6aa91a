"""Backups: `archive` is the file, `tables` the database's side, `making` and `restoring` the two commands."""
