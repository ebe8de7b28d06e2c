"""Durable files, locks, processes, GPUs, a Ray cluster, progress lines: knows nothing of caches."""
