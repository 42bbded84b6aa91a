"""The store: the only process that talks to PostgreSQL. Orders, writes, publishes after commit, answers reads."""
