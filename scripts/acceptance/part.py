"""What a part is given, and what it gives back."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


class CannotRunError(Exception):
    """A part cannot run here; the message is the reason that is reported."""


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        what: what was measured.
        found: the figure, or words.
        unit: of the figure.
        bound: what was required of it, in words; empty: nothing, it is only reported.
        ok: whether the bound holds; None where there is none.
    """

    what: str
    found: float | int | str
    unit: str = ""
    bound: str = ""
    ok: bool | None = None


def within(what: str, found: float, limit: float, unit: str = "") -> Row:
    """A figure that must not exceed a limit; a NaN does.

    Args:
        what, found, unit: of the row.
        limit: the largest accepted value.
    """
    shown = found if math.isfinite(found) else str(found)  # JSON has no NaN
    return Row(what, shown, unit, f"<= {limit:g}", ok=bool(found <= limit))


def required(what: str, found: object, expected: object) -> Row:
    """Something that must be equal to what is expected."""
    return Row(what, str(found), "", f"= {expected}", ok=found == expected)


@dataclass(frozen=True)
class Setup:
    """How the parts run.

    Attributes:
        device: cuda or cpu.
        smoke: tiny shapes: do the parts run?
        hours: time for all parts.
        work: a scratch directory of this part.
    """

    device: str
    smoke: bool
    hours: float
    work: Path

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")


def is_installed(module: str) -> bool:
    return find_spec(module) is not None


@dataclass(frozen=True)
class Part:
    """An entry of the list.

    Attributes:
        name: of its file under ``parts/``.
        summary: one line.
        least_s: seconds that must be left for it to be started; a guess until it has been run on a GPU.
        limit_s: it is ended after so many seconds; None: after what is left.
    """

    name: str
    summary: str
    least_s: float = 60.0
    limit_s: float | None = 530.0


PARTS = (
    Part("versions", "libraries, driver, GPU, attention kernel", 20),
    Part("gpu_tests", "the tests marked gpu"),
    Part("exactness", "CPU and GPU, kernel and grid, shared prefixes, kept graphs, activation checkpointing"),
    Part("engines", "DDP, FSDP2 and ZeRO with one rank against no engine"),
    Part("plan_memory", "measured peak memory against plan"),
    Part("loss", "the loss alone at 1,024 x 65,536, beside the dense form"),
    Part("resume", "a training run stopped by SIGTERM and resumed"),
    Part("profile", "one step under torch.profiler: synchronisations, kernels, idle share"),
    Part("mfu", "tokens/s and utilisation at the widths of 0.6B, 4B and 8B", 120),
    Part("contrastive_step", "a training step beside sentence-transformers", 120),
    Part("allocator", "reserved and allocated memory, with and without expandable segments"),
    Part("open_small", "recipes/open-small with all 30 layers; needs --hours 1 or more", 2700, None),
)
NAMES = tuple(part.name for part in PARTS)
