"""Completions of many prompts at once."""
