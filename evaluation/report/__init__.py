"""Results as files and tables: JSON, CSV, Markdown, the terminal, a W&B table."""
