"""From data to tokens: problems, templates, corpora and documents."""
