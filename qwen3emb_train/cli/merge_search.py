"""merge_search: ``merging`` proposes weights, ``evaluation`` scores them; neither imports the other."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.data.retrieval_set import load_retrieval_set
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.evaluation.evaluate import EvaluateConfig, SetConfig, evaluate
from qwen3emb_train.merging.config import MergeSourceConfig
from qwen3emb_train.merging.merge import Merge, input_directories, model_directories
from qwen3emb_train.merging.plot import plot_search
from qwen3emb_train.merging.search import MergeWeights, SearchStrategy, TriedPoint, search_weights
from qwen3emb_train.merging.self_positioning import Position, ProbeConfig, position_by_gradient, read_probe
from qwen3emb_train.models.precision import Precision
from qwen3emb_train.pages.figures import require_matplotlib

PROGRAM = "merge_search"
_EQUAL = "equal weights"


@dataclass
class MergeSearchConfig(MergeSourceConfig):
    """A merge whose weights are chosen by nDCG on development sets.

    Attributes:
        strategy: how weights are searched; self_positioning needs ``probe.path``.
        dev_sets: name -> retrieval set; the mean over the sets decides.
        test_sets: name -> retrieval set that decides nothing: the single models, equal weights and the chosen merge are
            scored on it, and the scores are written to run.json in any case.
        max_evaluations: merges scored on the dev sets at most.
        tolerance: the search ends when it moves weights by less than this.
        probe: of ``strategy=self_positioning``: the probe set and the descent on it.
        ndcg_at: cut-off of the score.
        max_tokens: longest text.
        precision: precision of the matrix products that encode.
        tokens_per_batch: tokens encoded at once.
        output_dir: the model directory to write: the chosen merge, merge_search.png and .html, run.json with every
            point. Scores are cached in ``NAME.evaluations`` next to it: a restarted search repeats none.
    """

    strategy: SearchStrategy = SearchStrategy.coordinate
    dev_sets: dict[str, SetConfig] = field(default_factory=dict)
    test_sets: dict[str, SetConfig] = field(default_factory=dict)
    max_evaluations: int = 30
    tolerance: float = 0.02
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    ndcg_at: int = 10
    max_tokens: int = 8192
    precision: Precision = Precision.auto
    tokens_per_batch: int = 16_384
    output_dir: str = "???"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dev_sets:
            raise ValueError("dev_sets is empty: name at least one, e.g. dev_sets.NAME.path=PATH.")
        judged = [(chosen.path, chosen.split) for chosen in self.dev_sets.values()]
        for name, chosen in self.test_sets.items():
            if (chosen.path, chosen.split) in judged:
                raise ValueError(f"test_sets.{name} is also a dev set: what chooses a merge cannot judge it.")
        if self.tolerance <= 0.0:
            raise ValueError(f"tolerance is {self.tolerance}; use a positive weight, e.g. 0.02.")
        if (self.strategy is SearchStrategy.self_positioning) != (self.probe.path is not None):
            raise ValueError("strategy=self_positioning and probe.path belong together: give both, or neither.")


def merge_search(config: MergeSearchConfig) -> Path:
    """Searches, writes the chosen merge and returns its directory; does nothing where it is up to date.

    Raises:
        FileNotFoundError, ValueError: a model or set cannot be read; the models do not fit together.
        ImportError: matplotlib is missing.
    """
    require_matplotlib("merge")
    output = Path(config.output_dir)
    models = model_directories(config)
    inputs = input_directories(config, models) | _set_files(config)
    lineage.produce(PROGRAM, output, lineage.settings_of(config), inputs, lambda made: _write(config, models, made))
    return output


def _write(config: MergeSearchConfig, models: Sequence[Path], made: lineage.Output) -> dict[str, Any]:
    scorer = _Scorer(config, Merge(config, models))
    path = _self_positioning(config, scorer) if config.strategy is SearchStrategy.self_positioning else []
    points = search_weights(
        len(models),
        lambda weights: scorer.score(weights, config.dev_sets),
        config.strategy,
        max_evaluations=config.max_evaluations,
        tolerance=config.tolerance,
        proposed=[position.weights for position in path[-1:]],
    )
    chosen = max(points, key=lambda point: point.mean)
    test = _test_scores(config, scorer, points, chosen) if config.test_sets else {}
    metrics = {
        "models": [str(model) for model in models],
        "weights": {f"model_{position}": weight for position, weight in enumerate(chosen.weights)},
        "metric": f"ndcg@{config.ndcg_at}",
        "dev": {"mean": chosen.mean, **chosen.scores},
        "test": test,
        "tried": [{"weights": point.weights, "mean": point.mean, **point.scores} for point in points],
    }
    if path:
        metrics["self_positioning"] = [asdict(position) for position in path]
    made.digests.update(scorer.merge.write(made.directory, lambda name: list(chosen.weights)))
    plot_search(made.directory, points, chosen, f"ndcg@{config.ndcg_at}")
    print(format_search(points, chosen, test))
    return metrics


def format_search(points: Sequence[TriedPoint], chosen: TriedPoint, test: dict[str, dict[str, float]]) -> str:
    """A line for every point, the chosen one marked; then the test scores.

    Args:
        points: in the order in which they were scored.
        chosen: one of them.
        test: name of a model -> its score by test set.
    """
    lines = ["dev      " + "  ".join(["weights", *chosen.scores])]
    for point in points:
        mark = "*" if point == chosen else " "
        weights = " ".join(f"{weight:.3f}" for weight in point.weights)
        lines.append(f"{mark} {point.mean:.4f}  {weights}  " + " ".join(f"{s:.4f}" for s in point.scores.values()))
    for name, scores in test.items():
        lines.append(f"test     {name}: " + "  ".join(f"{key} {score:.4f}" for key, score in scores.items()))
    return "\n".join(lines)


class _Scorer:
    """Scores a merge on retrieval sets. Earlier scores are reused, identified by the digest of the weights."""

    def __init__(self, config: MergeSearchConfig, merge: Merge) -> None:
        self.merge = merge
        self._config = config
        output = Path(config.output_dir)
        self.directory = output.with_name(f"{output.name}.evaluations")
        self.candidate = self.directory / "candidate"

    def write_candidate(self, weights: MergeWeights) -> None:
        shutil.rmtree(self.candidate, ignore_errors=True)
        self.candidate.mkdir(parents=True)
        self.merge.write(self.candidate, lambda name: list(weights))

    def score(self, weights: MergeWeights, sets: dict[str, SetConfig]) -> dict[str, float]:
        """nDCG by set."""
        self.write_candidate(weights)
        settings = EvaluateConfig(
            models={PROGRAM: str(self.candidate)},
            sets=sets,
            max_tokens=self._config.max_tokens,
            precision=self._config.precision,
            tokens_per_batch=self._config.tokens_per_batch,
            ndcg_at=self._config.ndcg_at,
            bootstrap_samples=0,  # a candidate's intervals and map are not used
            diagnostics=False,
        )
        key = lineage.value_digest([lineage.digest(self.candidate), asdict(settings)])
        settings.output_dir = str(self.directory / key[:32])
        rows = evaluate(settings)
        shutil.rmtree(self.candidate)
        return {row.set: row.scores[f"ndcg@{self._config.ndcg_at}"] for row in rows if row.set in sets}


def _set_files(config: MergeSearchConfig) -> dict[str, Path]:
    """The input files other than the models, by name, for the record."""
    files = {} if config.probe.path is None else {"probe": source_path(config.probe.path)}
    for kind, sets in (("dev", config.dev_sets), ("test", config.test_sets)):
        for name, chosen in sets.items():
            for file in load_retrieval_set(Path(chosen.path), chosen.split).files:
                files[f"{kind} {name}: {file.name}"] = file
    return files


def _self_positioning(config: MergeSearchConfig, scorer: _Scorer) -> list[Position]:
    from qwen3emb_train.index.inference import TextEncoder

    examples = read_probe(config.probe)
    scorer.write_candidate(tuple(1.0 / len(scorer.merge.models) for _ in scorer.merge.models))
    text_encoder = TextEncoder.load(str(scorer.candidate), precision="fp32")
    shutil.rmtree(scorer.candidate)
    return position_by_gradient(
        text_encoder.encoder, text_encoder.tokenizer, scorer.merge.models, examples, config.probe
    )


def _test_scores(
    config: MergeSearchConfig, scorer: _Scorer, points: Sequence[TriedPoint], chosen: TriedPoint
) -> dict[str, dict[str, float]]:
    """The chosen merge, every single model, and equal weights."""
    num_models = len(chosen.weights)
    named = {f"model_{i}": points[i].weights for i in range(num_models)} | {_EQUAL: points[num_models].weights}
    return {
        name: scorer.score(weights, config.test_sets) for name, weights in {**named, "chosen": chosen.weights}.items()
    }
