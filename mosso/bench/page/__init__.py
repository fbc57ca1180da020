"""The report page: rows of measurements to one self-contained HTML file, or to Markdown."""
