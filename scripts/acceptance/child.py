"""One part in a process of its own: ``python -m scripts.acceptance.child PART DEVICE HOURS SMOKE WORK RESULT``."""

import importlib
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.acceptance.part import CannotRunError, Row, Setup
from scripts.acceptance.report import CANNOT_RUN, DONE, FAILED


def run_part(name: str, setup: Setup) -> dict[str, Any]:
    """The part's result; an exception is one, too."""
    rows: list[Row] = []
    started, reason, status = time.monotonic(), "", DONE
    try:
        rows = importlib.import_module(f"scripts.acceptance.parts.{name}").measure(setup)
        if wrong := [row.what for row in rows if row.ok is False]:
            status, reason = FAILED, f"out of bounds: {'; '.join(wrong)}"
    except CannotRunError as error:
        status, reason = CANNOT_RUN, str(error)
    except (Exception, SystemExit) as error:  # whatever it is, the other parts still run
        traceback.print_exc()
        status, reason = FAILED, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return {
        "status": status, "reason": reason, "seconds": round(time.monotonic() - started, 1), "device": device(setup),
        "smoke": setup.smoke, "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def device(setup: Setup) -> str:
    """The GPU's name, or cpu: results of another device are not these."""
    import torch

    return torch.cuda.get_device_name() if setup.is_cuda else "cpu"


def main(arguments: list[str]) -> None:
    name, kind, hours, smoke, work, result = arguments
    found = run_part(name, Setup(kind, smoke == "1", float(hours), Path(work)))
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
