"""The shards: each owns a subset of the connections. Pure decisions in `hub`, sockets in `connection`."""
