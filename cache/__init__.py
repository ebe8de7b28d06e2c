"""Stage one: a teacher's soft targets, computed once and stored in a directory of HDF5 shards."""
