"""python -m data_synth key=value ...   Heavy imports are deferred to the run, so ``--help`` is fast."""

import sys
from collections.abc import Sequence
from typing import Any

from qwen3emb_train.configuration.help import program_help
from qwen3emb_train.configuration.program import Program
from qwen3emb_train.configuration.running import print_text, run_program


def _synthesize(config: Any) -> int:
    from data_synth.pipeline import synthesize

    return synthesize(config)


PROGRAM = Program(
    name="synthesize",
    summary="a language model turns documents into training pairs",
    example=(
        "python -m data_synth documents.handbook.path=docs/ teacher.base_urls=[http://localhost:8000/v1] \\\n"
        "    teacher.model=Qwen/Qwen3-32B output_dir=outputs/pairs dry_run=true\n"
        "python -m recipes.quickstart.make_corpus data/python-library      "
        "(a corpus without a model: see data_synth/README.md)"
    ),
    schema="data_synth.config:SynthesisConfig",
    run=_synthesize,
    command="python -m data_synth",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the synthesis.

    Returns:
        0 done, 1 some items failed, 2 bad input or a teacher that cannot be used, 75 stopped by a signal: the same
        command continues.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        print_text(program_help(PROGRAM))
        return 0
    return run_program(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
