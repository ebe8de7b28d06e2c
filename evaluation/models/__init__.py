"""The models under evaluation: where they are, loading them, and their latency."""
