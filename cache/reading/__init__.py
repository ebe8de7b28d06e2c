"""Reading a cache: one shard, all shards, and the reader that training and evaluation use."""
