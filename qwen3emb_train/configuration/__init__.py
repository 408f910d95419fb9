"""From a command line to a program's typed configuration, and its help: the same for every program."""
