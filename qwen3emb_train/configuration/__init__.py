"""From a command line to a program's typed configuration, and its help: one way for every program here."""
