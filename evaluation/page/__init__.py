"""report.html: one page without a network."""
