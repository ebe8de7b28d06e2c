"""Caches by URL: remotes, push, pull, the local copy and the dataset card."""
