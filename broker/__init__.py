"""The broker: routes batches between shards and stores by topic and slot. Stores nothing, promises nothing."""
