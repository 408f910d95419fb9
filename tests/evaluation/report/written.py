"""Directories as training, evaluate and merge_search write them, by hand and small."""

import json
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage

# What must never become markup, in any field that somebody else can write.
EVIL = "$\\frac{$ <script>alert('x')</script> & \"quoted\" \ud800 \x00"


def writable(text: str) -> str:
    """Without the lone surrogate, which no run.json can hold."""
    return text.replace("\ud800", "")


def write_run(directory: Path, *, steps: int = 8, shift: float = 0.0, evil: str = "") -> Path:
    """A training run: a loss every step, a diagnostics and a validation every fourth."""
    lines = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {
            "step": step, "loss": 4.0 / step + shift, "lr": 1e-4, "grad_norm": 2.0, "source": evil,
            "tokens_per_second": 100.0, "tokens_seen": 1000 * step, "examples_seen": 16 * step,
            "positive_cosine": 0.8, "hardest_negative_cosine": 0.6, "masked_share": None,
            "effective_negatives": 30.0 + step,
        }  # fmt: skip
        if step % 4 == 0:
            counts = [0.0] * 40
            counts[35] = 3.0
            line |= {"health/positive_cosine": 0.8, "health/accuracy_at_1": 0.5, "health/positive_histogram": counts}
            line |= {"validation/mrr": 0.4 + step / 100, f"validation/{evil or 'mine'}/mrr": 0.4}
        lines.append(line)
    lineage.write_text(directory / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    alert = {"step": 4, "name": "collapse", "source": "", "begins": True, "text": f"vectors collapse {evil}"}
    health = {"step": 8, "metrics": {}, "histogram_edges": [], "active": [alert], "alerts": [alert]}
    lineage.write_text(directory / "health.json", json.dumps(health))
    data = {"mine": {"path": f"pairs.jsonl{writable(evil)}"}}
    config = {"model": {"path": "a-model"}, "data": data, "steps": steps, "batch_size": 16, "optimizer": {"lr": 1e-4}}
    lineage.write_text(directory / "run.json", json.dumps(_record("train_embedding", config)))
    return directory


def write_evaluation(directory: Path, *, evil: str = "", models: tuple[str, ...] = ("first", "second")) -> Path:
    """Two models at two dimensions on a set; the second is better, and compared with the first."""
    rows, units = [], []
    for number, model in enumerate(models):
        for dim in (32, 64):
            score = 0.4 + 0.1 * number + dim / 1000
            against = {"baseline": models[0], "difference": 0.1, "interval": [0.05, 0.15], "p_value": 0.001}
            rows.append({
                "model": model + evil, "set": "questions" + evil, "dim": dim,
                "scores": {"ndcg@10": score, "mrr@10": 0.3}, "num_queries": 3, "num_documents": 9,
                "pairs_per_second": None, "task": "retrieval", "metric": "ndcg@10", "quantization": "float32",
                "interval": [score - 0.05, score + 0.05],
                "against": {**against, "baseline": models[0] + evil} if number else None,
            })  # fmt: skip
            units.append({
                "model": model + evil, "set": "questions" + evil, "dim": dim, "quantization": "float32",
                "metric": "ndcg@10", "ids": ["q1" + evil, "q2", "q3"], "values": [0.0, 0.5, 0.5 * number],
            })  # fmt: skip
    diagnostics = [_diagnostics(model + evil, evil) for model in models]
    lineage.write_text(directory / "results.json", json.dumps(rows))
    lineage.write_text(directory / "per_query.jsonl", "".join(json.dumps(line) + "\n" for line in units))
    lineage.write_text(directory / "diagnostics.json", json.dumps(diagnostics))
    return directory


def write_merge(directory: Path, *, num_models: int = 2, evil: str = "") -> Path:
    """A finished merge search of two sets."""
    weights = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]
    tried = [
        {"weights": one[:num_models], "mean": 0.3 + 0.1 * place, "a" + writable(evil): 0.3, "b": 0.3 + 0.2 * place}
        for place, one in enumerate(weights)
    ]
    metrics = {
        "models": [f"model{writable(evil)}"] * num_models, "weights": {f"model_{i}": 0.5 for i in range(num_models)},
        "metric": "ndcg@10", "dev": {"mean": 0.5},
        "test": {"model_0" + writable(evil): {"a": 0.31}, "chosen": {"a": 0.4321}}, "tried": tried,
    }  # fmt: skip
    lineage.write_text(directory / "run.json", json.dumps(_record("merge_search", {}) | {"metrics": metrics}))
    return directory


def _diagnostics(model: str, evil: str) -> dict[str, Any]:
    edges = [-1.0 + bin / 20 for bin in range(41)]
    positives, random = [0] * 40, [0] * 40
    positives[36], random[24] = 5, 7
    found = [
        {"id": "d2" + evil, "text": "wrong" + evil, "cosine": 0.91, "relevance": 0},
        {"id": "d1", "text": "right" + evil, "cosine": 0.85, "relevance": 1},
    ]
    worst = {"query_id": "q1" + evil, "query": f"how? {model}", "score": 0.25, "found": found}
    worst["relevant"] = [{"id": "d1" + evil, "text": "right" + evil}]
    return {
        "model": model, "set": "questions" + evil,
        "histogram": {"edges": edges, "positives": positives, "random": random},
        "map": {"texts": ["how?" + evil, "so", "url(#x) #0072b2"], "kinds": ["query", "document", "document"],
                "x": [0.0, 1.0, 0.5], "y": [0.0, 1.0, -0.5]},
        "worst": [worst] * 3,
    }  # fmt: skip


def _record(program: str, config: dict[str, Any]) -> dict[str, Any]:
    environment = {"python": "3.11.7", "versions": {"torch": "2.13.0"}, "git_commit": "c0ffee"}
    inputs = {"model": "abc123"}
    return {
        "program": program, "config": config, "inputs": inputs, "metrics": {}, "parents": {},
        "environment": environment, "finished": "2026-01-01T00:00:00Z",
    }  # fmt: skip
