"""All models under the same conditions: what is measured, and what it is kept as."""
