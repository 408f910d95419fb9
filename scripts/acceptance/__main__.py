"""The command line: see ``scripts/gpu_acceptance.sh``."""

import argparse
import subprocess
import sys
from pathlib import Path

from scripts.acceptance.driver import run_all
from scripts.acceptance.part import NAMES, PARTS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu_acceptance.sh", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Correctness and figures on one GPU, in parts; a part that is done is not repeated.",
        epilog="parts:\n" + "\n".join(f"  {part.name:<18}{part.summary}" for part in PARTS),
    )  # fmt: skip
    parser.add_argument("--hours", type=float, default=0.4, help="time for all parts (default 0.4: 24 minutes)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: does every part run?")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[], metavar="PART", help="only these parts")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_acceptance"), help="results go there")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.smoke:
        parser.error("--device cpu needs --smoke: the full shapes are for a GPU")
    if arguments.device == "cuda" and not has_cuda():
        parser.error("torch sees no CUDA device here; --device cpu --smoke tries the parts at tiny shapes")
    return run_all(arguments.output, arguments.device, arguments.smoke, arguments.hours, arguments.only)


def has_cuda() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
