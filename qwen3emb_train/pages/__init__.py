"""HTML pages from Jinja2 templates, and the look of the figures on them."""
