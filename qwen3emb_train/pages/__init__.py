"""HTML pages from Jinja2 templates, and the style of the figures on them."""
