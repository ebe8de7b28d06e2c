"""report.html: one page without a network; its charts as SVG files, too."""
