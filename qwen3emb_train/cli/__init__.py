"""The command line: the only room that knows Hydra. Compose a configuration, call one function, report."""
