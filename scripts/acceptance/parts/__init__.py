"""The parts. Each file has ``measure(setup) -> list[Row]`` and runs alone in a process."""
