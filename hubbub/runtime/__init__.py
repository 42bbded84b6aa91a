"""How a process lives: start, stop, logs, metrics, files, the embedded PostgreSQL. No word of chat in it."""
