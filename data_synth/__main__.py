"""python -m data_synth key=value ...   Nothing heavy is imported before a run: ``--help`` answers at once."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

_DEBUG = "QWEN3EMB_DEBUG"
_USAGE = """data_synth: a language model turns documents into training pairs

usage: python -m data_synth [--config-dir DIR --config-name NAME] [--cfg] key=value ...
  --config-dir, --config-name   a recipe's YAML file instead of the defaults below
  --cfg                         print the resulting configuration and stop

examples:
  python -m data_synth documents.handbook.path=docs/ teacher.base_urls=[http://localhost:8000/v1] \\
      teacher.model=Qwen/Qwen3-32B output_dir=outputs/pairs dry_run=true
  python -m recipes.quickstart.make_corpus data/python-library   (a corpus without a model: recipes/quickstart)

keys and defaults:"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the synthesis.

    Returns:
        0 done, 1 some items are left to do (failed, or stopped by a signal), 2 bad input.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(help_text())
        return 0
    from data_synth.composition import compose, parse_arguments
    from data_synth.teachers.teacher import TeacherError

    try:
        line = parse_arguments(arguments)
        from data_synth.config import SynthesisConfig

        config, text = compose(line, SynthesisConfig)
        if line.print_only:
            print(text, end="")
            return 0
        from data_synth.pipeline import synthesize

        return synthesize(config)
    except (ValueError, OSError, ImportError, TeacherError) as error:
        if os.environ.get(_DEBUG):
            raise
        print(f"error: {error}\n(set {_DEBUG}=1 to see where it was raised)", file=sys.stderr)
        return 2


def help_text() -> str:
    """Usage, and the commented skeleton: every key with its default and its meaning."""
    return "\n".join([_USAGE, *(f"  {line}".rstrip() for line in skeleton().splitlines())])


def skeleton() -> str:
    """``configs/synthesize.yaml``, beside the package or where the wheel puts it."""
    above = Path(__file__).resolve().parent.parent
    for directory in (above / "configs", above / "qwen3emb_train" / "configs"):
        if (directory / "synthesize.yaml").is_file():
            return (directory / "synthesize.yaml").read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"no configs/synthesize.yaml beside {above / 'data_synth'}: the installation is incomplete."
    )


if __name__ == "__main__":
    sys.exit(main())
