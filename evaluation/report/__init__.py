"""Results as files: JSON, CSV, Markdown, plots, a W&B table."""
