"""A program of the command line: its name, its configuration class, and the function it calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

EXIT_STOPPED = 75
"""Exit code of what a signal stopped: the same command goes on. sysexits.h EX_TEMPFAIL, "try again": neither success
(the next stage must not start) nor a failure to report."""


@dataclass(frozen=True)
class Group:
    """A key that is filled as a whole by choosing a name: ``loss=infonce``.

    Attributes:
        key: the field that the choice fills; another than the group's name where two programs' choices differ.
        classes: choices that are a class with its defaults, as ``module:Class``. Others are files under
            ``configs/GROUP/``.
    """

    key: str
    classes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """One program.

    Classes are named by ``module:Class``, because help reads their source and must not import them.

    Attributes:
        name: also the name that a recipe's defaults list begins with.
        summary: one line.
        example: a command, or several lines of them.
        schema: the configuration class, as ``module:Class``.
        run: takes the configuration; what it returns is the exit code, None is 0. Imports what it needs when called.
        command: how it is called.
        groups: keys filled by choice, by the group's name.
        stands_in_for: another program whose files it takes: its schema, with all their keys and more, replaces theirs.
        keeps_config: after a run, ``config.yaml`` is written into ``output_dir``.
    """

    name: str
    summary: str
    example: str
    schema: str
    run: Callable[[Any], int | None]
    command: str
    groups: Mapping[str, Group] = field(default_factory=dict)
    stands_in_for: str | None = None
    keeps_config: bool = False
