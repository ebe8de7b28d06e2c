"""Stage one: from a configuration to a complete cache, in one process or many."""
