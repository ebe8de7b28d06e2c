"""What a cache directory holds, as cache/FORMAT.md specifies it."""
