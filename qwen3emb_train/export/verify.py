"""The program ``verify``: checks of a model folder.

Every export runs it before it renames its folder; ``python -m qwen3emb_train verify path=DIR`` runs it on any model
directory, Sentence-Transformers folder or reranker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen3emb_train import lineage
from qwen3emb_train.export import verify_files
from qwen3emb_train.export.backbone import read_json
from qwen3emb_train.export.checks import Check, Checklist, VerificationError, format_checks, has_failed
from qwen3emb_train.export.samples import SAMPLE_TEXTS
from qwen3emb_train.export.verify_embedding import PROMPTS_CHECK, EmbeddingFolder
from qwen3emb_train.export.verify_prompts import TrainedQueryPrompt, check_trained_prompt
from qwen3emb_train.export.verify_reranker import is_reranker, reranker_checks
from qwen3emb_train.export.verify_vectors import check_adapter, check_differs_from_base
from qwen3emb_train.model_directory import Prompts

_WEIGHTS = "weights whole and finite"


@dataclass
class VerifyConfig:
    """Settings of a verification.

    Attributes:
        path: the folder.
        reference: the model directory it was made from: ids and vectors must be the same.
        base: the model that training started from: the weights must differ from its.
        adapter: a LoRA adapter on ``base`` (null: on the base that the adapter names) that is merged into the folder.
        vllm, tei: also compare the vectors of these servers, where they are installed.
    """

    path: str = "???"
    reference: str | None = None
    base: str | None = None
    adapter: str | None = None
    vllm: bool = False
    tei: bool = False


def verify(config: VerifyConfig) -> list[Check]:
    """Checks a folder; its errors are failed checks.

    Raises:
        FileNotFoundError: path, reference, base or adapter is not a directory.
    """
    given = {"reference": config.reference, "base": config.base, "adapter": config.adapter}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    for name, path in ({"path": Path(config.path)} | paths).items():
        if not path.is_dir():
            raise FileNotFoundError(f"{name} {path}: no such directory. Give the folder of a model.")
    servers = [name for name, wanted in (("vllm", config.vllm), ("tei", config.tei)) if wanted]
    recorded = _recorded(Path(config.path))
    trained = TrainedQueryPrompt(**recorded.get("trained_query_prompt", {}))
    if trained.prompt is None and config.reference is not None:
        model = Prompts.read(Path(config.reference))
        trained = replace(trained, prompt=None if model is None else model.query)
    prompts = recorded.get("prompts")
    return verify_directory(Path(config.path), prompts=prompts, trained=trained, servers=servers, **paths)


def verify_directory(
    directory: Path,
    *,
    reference: Path | None = None,
    base: Path | None = None,
    adapter: Path | None = None,
    prompts: Mapping[str, str] | None = None,
    trained: TrainedQueryPrompt | None = None,
    servers: Sequence[str] = (),
) -> list[Check]:
    """Runs all checks of a folder.

    Args:
        directory: the folder.
        reference, base, adapter: see VerifyConfig.
        prompts: that it must have; None: not known. Our exports record theirs in ``run.json``.
        trained: what stood before queries in training, as recorded there; None: there is nothing to compare.
        servers: "vllm", "tei", or both.
    """
    checklist = Checklist()
    checklist.run(_WEIGHTS, lambda: verify_files.check_weights(directory))
    if (directory / lineage.RUN_FILE).is_file() or (directory.parent / lineage.RUN_FILE).is_file():
        checklist.run("bytes as they were written", lambda: verify_files.check_written(directory))
    checklist.run("dtype as config.json says", lambda: verify_files.check_dtype(directory), [_WEIGHTS])
    if is_reranker(directory):
        reranker_checks(directory, checklist, _WEIGHTS)
    else:
        EmbeddingFolder(directory, longest_text(directory), reference, prompts).run(checklist, _WEIGHTS, servers)
        _origin_checks(directory, checklist, base, adapter)
    if trained is not None and (trained.prompt is not None or prompts is not None):
        checklist.run("query prompt of training", lambda: check_trained_prompt(directory, trained), [PROMPTS_CHECK])
    checklist.run("card", lambda: verify_files.check_card(directory))
    return checklist.checks


def require_verified(checks: Sequence[Check]) -> None:
    """Prints the table.

    Raises:
        VerificationError: a check failed.
    """
    if has_failed(checks):
        raise VerificationError(f"The export is not what it should be; it was not published.\n{format_checks(checks)}")
    if checks:
        print(format_checks(checks))


def longest_text(directory: Path) -> int:
    """Length limit of the folder in tokens, at most 8192."""
    limits = [8192]
    for file, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        limit = read_json(directory / file).get(key) if (directory / file).is_file() else None
        limits += [int(limit)] if limit else []
    return min(limits)


def _origin_checks(directory: Path, checklist: Checklist, base: Path | None, adapter: Path | None) -> None:
    if adapter is not None and base is None:
        base = Path(str(read_json(adapter / "adapter_config.json")["base_model_name_or_path"]))
    if base is None:
        return
    start, limit = base, longest_text(directory)
    checklist.run("not the base's weights", lambda: check_differs_from_base(directory, start), [_WEIGHTS])
    if adapter is not None:
        added = adapter
        checklist.run("base + adapter", lambda: check_adapter(directory, start, added, SAMPLE_TEXTS, limit), [_WEIGHTS])


def _recorded(directory: Path) -> dict[str, Any]:
    """The metrics of the folder's ``run.json``; none where it is not an export of ours."""
    record = lineage.read_record(directory) if (directory / lineage.RUN_FILE).is_file() else None
    return {} if record is None else dict(record.metrics)
