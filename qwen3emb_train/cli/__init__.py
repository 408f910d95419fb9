"""The command line: the programs by name. ``configuration`` composes their settings and runs them."""
