"""Public functions say what their arguments are and what they raise.

The rule, read from the source: a public function or method (no leading underscore, in a public class of a public
module) with three or more parameters has an ``Args:`` section that names each of them, and one with a ``raise`` of its
own has a ``Raises:`` section. Several names may share a line, and a class may explain its ``__init__``. Overrides of a
method of a base class are spared (the base explains them), and so is ``NotImplementedError``.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path
    for package in ("qwen3emb_train", "data_synth")
    for path in (ROOT / package).rglob("*.py")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)
# Files that were not gone through when the rule was made. The list only shrinks: a file that follows the rule goes.
NOT_YET_SWEPT = frozenset(
    [
<<<<<<< HEAD
        "data_synth/chunking.py",
        "data_synth/judge.py",
        "data_synth/personas.py",
        "data_synth/pipeline.py",
        "data_synth/plans.py",
        "data_synth/schemas.py",
        "data_synth/statistics.py",
        "data_synth/tasks/bitext.py",
        "data_synth/tasks/classification.py",
        "data_synth/tasks/code.py",
        "data_synth/tasks/hard_negatives.py",
        "data_synth/tasks/items.py",
        "data_synth/tasks/retrieval.py",
        "data_synth/tasks/rows.py",
        "data_synth/tasks/sts.py",
        "data_synth/teachers/endpoints.py",
        "data_synth/teachers/settings.py",
        "data_synth/teachers/teacher.py",
=======
        "qwen3emb_train/cli/compose.py",
        "qwen3emb_train/cli/config_files.py",
        "qwen3emb_train/cli/merge_search.py",
        "qwen3emb_train/cli/messages.py",
        "qwen3emb_train/curation/cleaning/duplicates.py",
        "qwen3emb_train/curation/cleaning/evaluation_sets.py",
        "qwen3emb_train/curation/cleaning/retrieval_set.py",
        "qwen3emb_train/curation/rejected.py",
        "qwen3emb_train/curation/selection/pairs.py",
        "qwen3emb_train/curation/selection/report.py",
        "qwen3emb_train/curation/selection/scoring.py",
        "qwen3emb_train/data/batch_assignment.py",
        "qwen3emb_train/data/batch_plan.py",
        "qwen3emb_train/data/batches.py",
        "qwen3emb_train/data/chunking.py",
        "qwen3emb_train/data/collators.py",
        "qwen3emb_train/data/columns.py",
        "qwen3emb_train/data/corpus.py",
        "qwen3emb_train/data/instructions.py",
        "qwen3emb_train/data/layouts.py",
        "qwen3emb_train/data/mixture.py",
        "qwen3emb_train/data/qrels.py",
        "qwen3emb_train/data/ranking_metrics.py",
        "qwen3emb_train/data/readers.py",
        "qwen3emb_train/data/records.py",
        "qwen3emb_train/data/reranker_tokens.py",
        "qwen3emb_train/data/reranking_collator.py",
        "qwen3emb_train/data/sampling.py",
        "qwen3emb_train/data/source_order.py",
        "qwen3emb_train/data/store_writing.py",
        "qwen3emb_train/data/streams.py",
        "qwen3emb_train/data/token_store.py",
        "qwen3emb_train/data/tokenization.py",
        "qwen3emb_train/data/training_data.py",
        "qwen3emb_train/data/validation.py",
        "qwen3emb_train/evaluation/bootstrap.py",
        "qwen3emb_train/evaluation/diagnostics.py",
        "qwen3emb_train/evaluation/mteb_choice.py",
        "qwen3emb_train/evaluation/mteb_model.py",
        "qwen3emb_train/evaluation/mteb_tasks.py",
        "qwen3emb_train/evaluation/report/curves.py",
        "qwen3emb_train/evaluation/report/drawing.py",
        "qwen3emb_train/evaluation/report/fields.py",
        "qwen3emb_train/evaluation/report/inputs.py",
        "qwen3emb_train/evaluation/report/page.py",
        "qwen3emb_train/evaluation/report/report.py",
        "qwen3emb_train/evaluation/report/systems.py",
        "qwen3emb_train/evaluation/report/worst.py",
        "qwen3emb_train/evaluation/reranking.py",
        "qwen3emb_train/evaluation/retrieval.py",
        "qwen3emb_train/evaluation/tasks/reading.py",
        "qwen3emb_train/export/backbone.py",
        "qwen3emb_train/export/checks.py",
        "qwen3emb_train/export/gguf.py",
        "qwen3emb_train/export/gguf_tokenizer.py",
        "qwen3emb_train/export/hub.py",
        "qwen3emb_train/export/model_card.py",
        "qwen3emb_train/export/onnx.py",
        "qwen3emb_train/export/sentence_transformers.py",
        "qwen3emb_train/export/verify.py",
        "qwen3emb_train/export/verify_embedding.py",
        "qwen3emb_train/export/verify_files.py",
        "qwen3emb_train/export/verify_reranker.py",
        "qwen3emb_train/export/verify_servers.py",
        "qwen3emb_train/export/verify_tokens.py",
        "qwen3emb_train/export/verify_vectors.py",
        "qwen3emb_train/index/bm25.py",
        "qwen3emb_train/index/candidates.py",
        "qwen3emb_train/index/embed_ray.py",
        "qwen3emb_train/index/embed_texts.py",
        "qwen3emb_train/index/embedders.py",
        "qwen3emb_train/index/faiss_index.py",
        "qwen3emb_train/index/inference.py",
        "qwen3emb_train/index/nearest.py",
        "qwen3emb_train/index/rerankers.py",
        "qwen3emb_train/index/store_building.py",
        "qwen3emb_train/index/vector_bytes.py",
        "qwen3emb_train/index/vector_rows.py",
        "qwen3emb_train/index/vector_shards.py",
        "qwen3emb_train/index/vector_store.py",
        "qwen3emb_train/lineage.py",
        "qwen3emb_train/losses/denominator.py",
        "qwen3emb_train/losses/embedding_loss.py",
        "qwen3emb_train/losses/embeddings.py",
        "qwen3emb_train/losses/masks.py",
        "qwen3emb_train/losses/matryoshka.py",
        "qwen3emb_train/losses/ragged.py",
        "qwen3emb_train/losses/tiles.py",
        "qwen3emb_train/merging/checkpoints.py",
        "qwen3emb_train/merging/inputs.py",
        "qwen3emb_train/merging/methods/blocks.py",
        "qwen3emb_train/merging/methods/task_vectors.py",
        "qwen3emb_train/merging/plot.py",
        "qwen3emb_train/merging/self_positioning.py",
        "qwen3emb_train/mining/rules.py",
        "qwen3emb_train/mining/search/blocks.py",
        "qwen3emb_train/mining/search/finding.py",
        "qwen3emb_train/mining/search/rescoring.py",
        "qwen3emb_train/mining/search/vectors.py",
        "qwen3emb_train/models/grids.py",
        "qwen3emb_train/models/loading.py",
        "qwen3emb_train/models/packing.py",
        "qwen3emb_train/models/pooling.py",
        "qwen3emb_train/models/reranker.py",
        "qwen3emb_train/models/varlen.py",
        "qwen3emb_train/models/weights.py",
        "qwen3emb_train/planning/activations.py",
        "qwen3emb_train/planning/cost.py",
        "qwen3emb_train/planning/dry_run.py",
        "qwen3emb_train/planning/load.py",
        "qwen3emb_train/planning/memory.py",
        "qwen3emb_train/planning/refusals.py",
        "qwen3emb_train/planning/shapes.py",
        "qwen3emb_train/planning/work.py",
        "qwen3emb_train/training/checkpoints.py",
        "qwen3emb_train/training/engines/ddp.py",
        "qwen3emb_train/training/engines/deepspeed.py",
        "qwen3emb_train/training/engines/engine.py",
        "qwen3emb_train/training/engines/fsdp2.py",
        "qwen3emb_train/training/engines/launch.py",
        "qwen3emb_train/training/gradient_cache.py",
        "qwen3emb_train/training/health/non_finite.py",
        "qwen3emb_train/training/health/report.py",
        "qwen3emb_train/training/health/vectors.py",
        "qwen3emb_train/training/loop.py",
        "qwen3emb_train/training/monitor.py",
        "qwen3emb_train/training/optimization.py",
        "qwen3emb_train/training/retrieval_validation.py",
        "qwen3emb_train/training/stage.py",
        "qwen3emb_train/training/state_files.py",
        "qwen3emb_train/training/tracking.py",
>>>>>>> d822343 (data_synth: complete docstrings, standard terms)
    ]
)


@dataclass(frozen=True)
class Function:
    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]

    @property
    def is_spared(self) -> bool:
        """Overrides, properties and overloads are explained elsewhere."""
        decorators = {ast.unparse(each).split("(")[0].split(".")[-1] for each in self.node.decorator_list}
        if decorators & {"override", "overload", "property", "setter"}:
            return True
        return self.owner is not None and (self.node.name in method_names_of_bases(self.owner))

    @property
    def text(self) -> str:
        said = ast.get_docstring(self.node) or ""
        if self.node.name == "__init__" and self.owner:
            said += "\n" + (ast.get_docstring(self.owner) or "")
        return said


def methods_by_class() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
                found.setdefault(node.name, set()).update(names - {"__init__"})
    return found


METHODS = methods_by_class()
TORCH = {"forward", "backward", "setup_context", "extra_repr"}  # of nn.Module and autograd.Function


def method_names_of_bases(owner: ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for base in owner.bases:
        plain = ast.unparse(base).split("[")[0].split(".")[-1]
        names |= METHODS.get(plain, TORCH)
    return names


def functions(path: Path) -> Iterator[Function]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield Function(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and (
                    not each.name.startswith("_") or each.name in ("__init__", "__call__")
                ):
                    yield Function(each, node)


def own_raises(node: ast.AST) -> Iterator[ast.Raise]:
    """Of the function itself: not of functions in it, not a bare ``raise``, not ``NotImplementedError``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None and "NotImplementedError" not in ast.unparse(child):
            yield child
        yield from own_raises(child)


def section(text: str, name: str) -> str | None:
    """The lines under ``name:``, up to the next section or the end."""
    found = re.search(rf"^{name}:\s*$(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def complaints(path: Path) -> list[str]:
    found = []
    for function in functions(path):
        if function.is_spared:
            continue
        if len(function.parameters) >= 3:
            said = section(function.text, "Args")
            if said is None and function.node.name == "__init__":
                said = section(function.text, "Attributes")
            missing = [name for name in function.parameters if not re.search(rf"\b{name}\b", said or "")]
            if missing:
                found.append(f"{function.name}: Args: must name {', '.join(missing)}")
        raises = function.node.name != "__init__" and any(own_raises(function.node))
        if raises and section(function.text, "Raises") is None:
            found.append(f"{function.name}: it raises, and has no Raises:")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_functions_explain_arguments_and_errors(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() not in NOT_YET_SWEPT:
        assert complaints(path) == []


def test_the_list_only_shrinks() -> None:
    assert [name for name in NOT_YET_SWEPT if not (ROOT / name).exists()] == [], "gone: take them off"
    assert [name for name in NOT_YET_SWEPT if not complaints(ROOT / name)] == [], "swept: take them off NOT_YET_SWEPT"


def test_the_rule_sees_what_is_missing(tmp_path: Path) -> None:
    """The check itself: silent, half and whole docstrings."""
    module = tmp_path / "module.py"
    module.write_text(
        "def silent(a, b, c):\n    raise ValueError(a)\n"
        'def half(a, b, c):\n    """Does.\n\n    Args:\n        a, b: both.\n    """\n'
        'def whole(a, b, c):\n    """Does.\n\n    Args:\n        a, b: both.\n        c: c.\n\n    Raises:\n'
        '        ValueError: never.\n    """\n    raise ValueError(a)\n'
        "def two(a, b):\n    def inner():\n        raise ValueError(a)\n    return inner\n"
        "def _private(a, b, c):\n    raise ValueError(a)\n"
    )
    assert complaints(module) == [
        "silent: Args: must name a, b, c",
        "silent: it raises, and has no Raises:",
        "half: Args: must name c",
    ]
