"""The commands `cache-teacher` and `cache`, and what they print."""
