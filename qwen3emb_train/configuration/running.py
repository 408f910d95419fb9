"""Runs a program: help at once, errors as one readable message and an exit code."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from qwen3emb_train.configuration.help import program_help
from qwen3emb_train.configuration.program import EXIT_STOPPED, Program
from qwen3emb_train.texts.visible import visible

_DEBUG = "QWEN3EMB_DEBUG"


def run_program(program: Program, arguments: Sequence[str]) -> int:
    """Composes the configuration and calls the program.

    Returns:
        The program's exit code; 0 where it returns None, 2 for bad input, 75 after Ctrl-C.
    """
    if "-h" in arguments or "--help" in arguments:
        print_text(program_help(program))
        return 0
    from qwen3emb_train.configuration.arguments import parse_arguments
    from qwen3emb_train.configuration.compose import compose

    try:
        _refuse_lone_process()
        request = parse_arguments(program, arguments)
        config, text = compose(program, request)
        if request.print_only:
            print(text, end="")
            return 0
        exit_code = program.run(config) or 0
        if program.keeps_config and os.environ.get("RANK", "0") == "0":
            # Afterwards, and only where the run began: a refused run must not leave its settings beside another's
            # results, nor one that was stopped while loading a directory that its next start does not know.
            from qwen3emb_train.lineage import CLAIM_FILE, write_text

            if (Path(config.output_dir) / CLAIM_FILE).is_file():
                write_text(Path(config.output_dir) / "config.yaml", text)
        return exit_code
    except KeyboardInterrupt:
        print(
            "\nstopped by Ctrl-C. Results are published whole or not at all; the same command goes on.", file=sys.stderr
        )
        return EXIT_STOPPED
    except Exception as error:
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        if (told := _message(error)) is None:
            raise  # a fault of ours: the traceback is the message
        return fail(f"{told}\n(set {_DEBUG}=1 to see where it was raised)")


def _refuse_lone_process() -> None:
    """``accelerate launch --cpu --num_processes 2`` starts one process, and says so in no other way than this.

    Raises:
        ValueError: this is that process.
    """
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if asked_for_cpu and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "several processes were asked for, and accelerate launch has started one: with --cpu it starts no more. "
            "Use torchrun --nproc_per_node 2 -m qwen3emb_train ... on CPUs, or leave out --num_processes for one."
        )


def _message(error: Exception) -> str | None:
    """What an error says to the user; None for one that is a fault of the program."""
    if _is_disk_full(error):
        return (
            f"no space left on the disk ({error}). What was published before is whole. Free some space, keep fewer "
            "checkpoints (keep_last) or choose another output_dir; the same command continues."
        )
    if isinstance(error, RecursionError):
        return f"a file or value is nested too deeply ({error})."
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({error}). Lower the setting that asks for it."
    if isinstance(error, RuntimeError) and type(error).__module__ == "builtins":
        is_users = str(error).startswith(("Symlink loop", "[enforce fail at alloc_cpu"))
        return str(error) if is_users else None
    if isinstance(error, (ValueError, OSError, ImportError, RuntimeError)):
        return str(error)
    if type(error).__module__ == "builtins":
        return None
    # A library's own class (SafetensorError, struct.error, UnpicklingError): it could not read what it was given.
    return f"{type(error).__module__}.{type(error).__qualname__}: {error} (a file is damaged, as a rule)"


def _is_disk_full(error: BaseException | None) -> bool:
    """Also where a library wraps the system's error in one of its own, of which only the text is left."""
    if error is None:
        return False
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    is_full |= any(f"(os error {number})" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
    return is_full or _is_disk_full(error.__cause__ or error.__context__)


def print_text(text: str) -> None:
    """Prints a long text; a reader such as ``head`` may stop before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit


def fail(message: str) -> int:
    """Prints an error, with the rank where there are several.

    Returns:
        The exit code for bad input.
    """
    rank = os.environ.get("RANK")
    prefix = f"[rank {rank}] " if rank not in (None, "0") else ""
    print(visible(f"{prefix}error: {message}"), file=sys.stderr)
    return 2
