"""What the evaluations measured, combined: one list of rows, and unambiguous names of the systems."""

from collections.abc import Sequence
from dataclasses import dataclass

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.inputs import Evaluation

MEAN = "mean"
_PLAIN = ("", "none", "float32")


@dataclass(frozen=True)
class System:
    """What is compared: a model at a dimension and a quantisation.

    Attributes:
        model: name.
        dim: components of its vectors; None without vectors.
        quantization: of its vectors; empty = none.
    """

    model: str
    dim: int | None
    quantization: str


@dataclass(frozen=True)
class Score:
    """A row of an evaluation.

    Attributes:
        system: what was measured.
        set: on which set; "mean" = over sets.
        metric: name of the main metric.
        value: the main metric.
        interval: its confidence interval.
        against: the comparison with the baseline: baseline, difference, interval, p_value.
        row: all fields.
    """

    system: System
    set: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    against: Entry | None
    row: Entry


@dataclass(frozen=True)
class Units:
    """Scores by query (or pair, or text): a line of per_query.jsonl."""

    system: System
    set: str
    metric: str
    values: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """All evaluations together.

    Attributes:
        scores, units: in the order of the evaluations.
        diagnostics: (model, entry of diagnostics.json).
        without_units, without_diagnostics: names of the evaluations without per_query.jsonl, without diagnostics.json.
    """

    scores: list[Score]
    units: list[Units]
    diagnostics: list[tuple[str, Entry]]
    without_units: list[str]
    without_diagnostics: list[str]

    @property
    def systems(self) -> list[System]:
        return list(dict.fromkeys(score.system for score in self.scores))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(score.system.model for score in self.scores))

    @property
    def sets(self) -> list[str]:
        """Names of sets, the mean last."""
        names = dict.fromkeys(score.set for score in self.scores)
        return [name for name in names if name != MEAN] + [MEAN] * (MEAN in names)

    def full(self) -> list[System]:
        """Of each model the system with the longest vectors, not quantised if one was measured."""
        best: dict[str, System] = {}
        for system in self.systems:
            other = best.get(system.model)
            if other is None or _completeness(system) > _completeness(other):
                best[system.model] = system
        return list(best.values())

    def label(self, system: System) -> str:
        """The model's name, with dimension and quantisation where several of that model were measured."""
        same = [other for other in self.systems if other.model == system.model]
        parts = [system.model]
        if len({other.dim for other in same}) > 1:
            parts.append(f"{system.dim}")
        if len({other.quantization for other in same}) > 1:
            parts.append(system.quantization or "float32")
        return " · ".join(parts)


def combine(evaluations: Sequence[Evaluation]) -> Measured:
    """Combines evaluations. A model that several of them measured gets the name of its evaluation as a prefix.

    Raises:
        ValueError: a field is missing or malformed, or a row occurs twice in one file; names file, entry and field.
    """
    places: dict[tuple[System, str], set[str]] = {}
    for evaluation in evaluations:
        for row in evaluation.rows:
            measured_in = places.setdefault((_system(row), row.text("set")), set())
            if evaluation.name in measured_in:
                raise ValueError(f"{row.where}: model, set, dim and quantization are those of an entry before it.")
            measured_in.add(evaluation.name)
    repeated = {system.model for (system, _), names in places.items() if len(names) > 1}
    scores: list[Score] = []
    units: list[Units] = []
    diagnostics: list[tuple[str, Entry]] = []
    for evaluation in evaluations:
        named = {model: f"{evaluation.name}: {model}" for model in repeated}
        scores += [_score(row, named) for row in evaluation.rows]
        units += [_units(row, named) for row in evaluation.units or []]
        diagnostics += [(named.get(row.text("model"), row.text("model")), row) for row in evaluation.diagnostics or []]
    return Measured(
        scores, units, diagnostics,
        [evaluation.name for evaluation in evaluations if evaluation.units is None],
        [evaluation.name for evaluation in evaluations if evaluation.diagnostics is None],
    )  # fmt: skip


def _completeness(system: System) -> tuple[bool, int]:
    return (not system.quantization, system.dim or 0)


def _system(row: Entry, named: dict[str, str] | None = None) -> System:
    quantization = row.text("quantization") if row.has("quantization") else ""
    model = row.text("model")
    return System(
        (named or {}).get(model, model),
        row.integer("dim") if row.has("dim") else None,
        "" if quantization in _PLAIN else quantization,
    )


def _score(row: Entry, named: dict[str, str]) -> Score:
    scores = row.entry("scores")
    metric = row.text("metric") if row.has("metric") else next(iter(scores.content), "")
    value = scores.number(metric) if scores.has(metric) else float("nan")
    against = None
    if row.has("against"):
        against = row.entry("against")
        baseline = against.text("baseline")
        against = Entry(against.where, {**against.content, "baseline": named.get(baseline, baseline)})
    return Score(_system(row, named), row.text("set"), metric, value, interval_of(row), against, row)


def interval_of(entry: Entry) -> tuple[float, float] | None:
    """The field "interval" of an entry; None where it is null or absent.

    Raises:
        ValueError: it is no list of two numbers.
    """
    if not entry.has("interval"):
        return None
    bounds = entry.numbers("interval")
    if len(bounds) != 2:
        raise ValueError(f"{entry.where}: interval has {len(bounds)} numbers, not 2. Run evaluate again.")
    return bounds[0], bounds[1]


def _units(row: Entry, named: dict[str, str]) -> Units:
    ids, values = row.texts("ids"), row.numbers("values")
    row.require_equal_lengths("ids", "values")
    return Units(_system(row, named), row.text("set"), row.text("metric"), dict(zip(ids, values, strict=True)))
