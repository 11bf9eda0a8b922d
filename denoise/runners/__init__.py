"""How shards get worked on: in this process, or by Ray Data."""
