"""Arguments to a program; help in well under a second; errors as one readable message and an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence

from qwen3emb_train.cli.config_files import group_options, skeleton
from qwen3emb_train.cli.programs import PROGRAMS, Program

_USAGE = "usage: python -m qwen3emb_train PROGRAM key=value ...       (PROGRAM --help shows its keys)"
_DEBUG = "QWEN3EMB_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a program.

    Returns:
        The exit code: 0 done, 1 a verification failed, 2 bad input, 75 stopped by a signal after saving: the same
        command continues.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, *rest = arguments
    if name not in PROGRAMS:
        return _fail(f"there is no program {name!r}.{_nearest(name, list(PROGRAMS))}\n\n{overview()}")
    program = PROGRAMS[name]
    if "-h" in rest or "--help" in rest:
        print(program_help(program))
        return 0
    return _run(program, rest)


def overview() -> str:
    """The list of programs."""
    lines = [
        "qwen3emb_train: train text-embedding models by the Qwen3-Embedding recipe",
        "",
        _USAGE,
        "       accelerate launch -m qwen3emb_train PROGRAM key=value ...",
        "       ... PROGRAM --config-dir recipes/NAME --config-name 1_pretrain [key=value ...]",
        "",
        "programs:",
        *(f"  {program.name:<18}{program.summary}" for program in PROGRAMS.values()),
        "",
        "example:",
        f"  {PROGRAMS['train_embedding'].example}",
    ]
    return "\n".join(lines)


def program_help(program: Program) -> str:
    """Summary, example, and the commented skeleton: every key with its default and its meaning."""
    groups = [f"  {group}={'|'.join(options)}" for group, options in group_options(program.name).items()]
    lines = [
        f"{program.name}: {program.summary}",
        "",
        f"usage: python -m qwen3emb_train {program.name} [--config-dir DIR --config-name NAME] [--cfg] key=value ...",
        "  --config-dir, --config-name   a recipe's YAML file instead of the defaults below",
        "  --cfg                         print the resulting configuration and stop",
        "",
        "example:",
        f"  {program.example}",
        "",
        *(["choices (each a file under configs/):", *groups, ""] if groups else []),
        "keys and defaults:",
        *(f"  {line}" for line in skeleton(program.name).splitlines()),
    ]
    return "\n".join(lines)


def _run(program: Program, arguments: Sequence[str]) -> int:
    from qwen3emb_train.cli.compose import ConfigError, compose, parse_arguments, write_config

    try:
        request = parse_arguments(program.name, arguments)
        schema, run = program.load()
        config, text = compose(request, schema)
        if request.print_only:
            print(text, end="")
            return 0
        exit_code = run(config) or 0
        write_config(config, text)  # afterwards: a refused run must not leave its settings beside another's results
        return exit_code
    except (ConfigError, ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        if isinstance(error, RuntimeError) and type(error).__module__ == "builtins":
            raise  # not one of ours: the traceback is the message
        return _fail(f"{error}\n(set {_DEBUG}=1 to see where it was raised)")


def _fail(message: str) -> int:
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank not in (None, "0") else ""
    print(f"{prefix}error: {message}", file=sys.stderr)
    return 2


def _nearest(word: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
