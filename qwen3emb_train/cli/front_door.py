"""The command line of the training programs: runs one, or lists them."""

import sys
from collections.abc import Sequence

from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.running import fail, print_text, run_program

_USAGE = "usage: python -m qwen3emb_train PROGRAM key=value ...       (PROGRAM --help shows its keys)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a program.

    Returns:
        The exit code: 0 done, 1 a verification failed, 2 bad input, 75 stopped by a signal after saving: the same
        command continues.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print_text(overview())
        return 0
    name, *rest = arguments
    if name not in PROGRAMS:
        return fail(f"there is no program {name!r}.{_nearest(name, list(PROGRAMS))}\n\n{overview()}")
    return run_program(PROGRAMS[name], rest)


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


def _nearest(word: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
