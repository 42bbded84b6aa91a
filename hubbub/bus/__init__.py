"""The exchange between processes: what it promises, how a batch is packed, how a slot's log is followed."""
