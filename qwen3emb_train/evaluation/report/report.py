"""The program ``report``: runs, evaluations and merge searches as one page, and its figures as PNG files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.evaluation.report.curves import training_section, validation_section
from qwen3emb_train.evaluation.report.differences import differences_section
from qwen3emb_train.evaluation.report.dimensions import dimensions_section
from qwen3emb_train.evaluation.report.health import health_section
from qwen3emb_train.evaluation.report.inputs import (
    Evaluation,
    MergeSearch,
    TrainingRun,
    evaluation_files,
    load_evaluation,
    load_merge,
    load_run,
    merge_files,
    run_files,
)
from qwen3emb_train.evaluation.report.merges import merges_section
from qwen3emb_train.evaluation.report.page import FIGURES, Section, render_report
from qwen3emb_train.evaluation.report.scores import scores_section
from qwen3emb_train.evaluation.report.similarities import similarities_section
from qwen3emb_train.evaluation.report.summary import origin_section, summary_section
from qwen3emb_train.evaluation.report.systems import combine
from qwen3emb_train.evaluation.report.worst import worst_section
from qwen3emb_train.pages.figures import line_styles, require_matplotlib

PROGRAM = "report"
PAGE_FILE = "report.html"


@dataclass
class ReportConfig:
    """Settings of the program ``report``.

    Attributes:
        runs: name on the page -> output directory of train_embedding or train_reranker, finished or still training.
        evaluations: name -> output directory of evaluate. A model in several of them gets its evaluation's name.
        merges: name -> output directory of merge_search.
        output_dir: receives report.html, figures/*.png and run.json.
        title: of the page; null = made from the names.
        metrics: keys of metrics.jsonl to draw beyond the standard ones, e.g. "effective_negatives".
        smoothing: window of the moving average, in recorded steps, at most.
        num_worst: queries shown for each model and set, of those that diagnostics.json has.
        max_characters: longest excerpt of a query's or document's text.
    """

    runs: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, str] = field(default_factory=dict)
    merges: dict[str, str] = field(default_factory=dict)
    output_dir: str = "???"
    title: str | None = None
    metrics: list[str] = field(default_factory=list)
    smoothing: int = 20
    num_worst: int = 20
    max_characters: int = 400

    def __post_init__(self) -> None:
        if not (self.runs or self.evaluations or self.merges):
            raise ValueError("runs, evaluations and merges are empty: name one, e.g. runs.NAME=DIRECTORY.")
        if self.metrics and not self.runs:
            raise ValueError(f"metrics is {self.metrics}, metrics of training runs, but runs is empty: name a run.")
        for key, least in (("smoothing", 1), ("num_worst", 0), ("max_characters", 20)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}; it is at least {least}.")


def write_report(config: ReportConfig) -> Path:
    """Writes the report and returns its page; does nothing where it is up to date.

    Raises:
        FileNotFoundError, ValueError: an input is missing or malformed; named by file, line or entry, and field.
        ImportError: matplotlib is missing.
    """
    require_matplotlib("report")
    output = Path(config.output_dir)
    lineage.produce(
        PROGRAM, output, lineage.settings_of(config), _input_files(config), lambda made: _write(config, made)
    )
    return output / PAGE_FILE


def _write(config: ReportConfig, made: lineage.Output) -> dict[str, Any]:
    _ = made.record  # with the inputs' digests before they are read: a run may write on meanwhile
    runs = [load_run(name, Path(path)) for name, path in config.runs.items()]
    evaluations = [load_evaluation(name, Path(path)) for name, path in config.evaluations.items()]
    merges = [load_merge(name, Path(path)) for name, path in config.merges.items()]
    sections = build_sections(config, runs, evaluations, merges)
    figures = made.directory / FIGURES
    figures.mkdir()
    for section in sections:
        for drawing in section.drawings:
            (figures / f"{drawing.name}.png").write_bytes(drawing.png)
    page = render_report(config.title or _title(config), _lead(config), sections, config.max_characters)
    lineage.write_text(made.directory / PAGE_FILE, page)
    return {}


def build_sections(
    config: ReportConfig, runs: list[TrainingRun], evaluations: list[Evaluation], merges: list[MergeSearch]
) -> list[Section]:
    """The sections that have something to show, in the order of the page.

    Args:
        config: the report's settings.
        runs: training runs.
        evaluations: of the program ``evaluate``.
        merges: of the program ``merge_search``.
    """
    measured = combine(evaluations)
    styles = line_styles(measured.models)
    run_styles = line_styles((run.name for run in runs), styles)  # a run and a model of the same name share a style
    sections: list[Section | None] = []
    if runs:
        sections.append(summary_section(runs))
    if measured.scores:
        sections += [
            scores_section(measured, styles),
            differences_section(measured, styles),
            dimensions_section(measured, styles),
        ]
    if runs:
        sections += [
            training_section(runs, run_styles, config.metrics, config.smoothing),
            validation_section(runs, run_styles),
            health_section(runs, run_styles),
        ]
    sections.append(merges_section(merges))
    sections += [
        similarities_section(measured.diagnostics, config.max_characters),
        worst_section(measured.diagnostics, config.num_worst),
    ]
    if measured.without_diagnostics:
        without = {"without": measured.without_diagnostics}
        sections.append(Section("diagnostics", "Not shown", content=without))
    records = {f"run {run.name}": run.record for run in runs}
    records |= {f"evaluation {evaluation.name}": evaluation.record for evaluation in evaluations}
    records |= {f"merge {name}": lineage.read_record(Path(path)) for name, path in config.merges.items()}
    sections.append(origin_section(records))
    return [section for section in sections if section is not None]


def _input_files(config: ReportConfig) -> dict[str, Path]:
    files = {}
    kinds = (
        ("runs", config.runs, run_files),
        ("evaluations", config.evaluations, evaluation_files),
        ("merges", config.merges, merge_files),
    )
    for key, named, files_of in kinds:
        for name, path in named.items():
            for file in files_of(f"{key}.{name}", Path(path)):
                files[f"{key}.{name}: {file.name}"] = file
    return files


def _title(config: ReportConfig) -> str:
    return "Report: " + ", ".join(dict.fromkeys([*config.runs, *config.evaluations, *config.merges]))


def _lead(config: ReportConfig) -> str:
    counted = [
        f"{len(named)} {name}{'s' * (len(named) > 1)}"
        for name, named in (
            ("training run", config.runs),
            ("evaluation", config.evaluations),
            ("merge search", config.merges),
        )
        if named
    ]
    return ", ".join(counted).replace("searchs", "searches")
