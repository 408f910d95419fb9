"""Vectors of the documents and the queries, by any kind of model."""

import json
from pathlib import Path

from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.queries import SearchProblem
from qwen3emb_train.mining.vector_settings import vector_settings
from qwen3emb_train.models.embed_config import TextRole
from qwen3emb_train.models.embed_texts import embed_texts
from qwen3emb_train.models.vector_store import VectorStore


def embed_problem(problem: SearchProblem, config: MiningConfig, work_dir: Path) -> tuple[VectorStore, VectorStore]:
    """Stores of the documents' and the queries' vectors; made, continued or used again.

    Raises:
        ValueError: ``work_dir`` holds vectors of other texts (names one) or of another model, and ``overwrite`` is off.
    """
    documents = zip(problem.pool.ids, problem.pool.texts, strict=True)
    # Prompts hold their instructions, which differ from query to query: the model shall add none.
    has_prompts = takes_instructions(config.model)
    queries = (
        (f"query {number}", query.prompt if has_prompts else query.text) for number, query in enumerate(problem.queries)
    )
    return (
        embed_texts(documents, config.model, work_dir / "documents", vector_settings(config, TextRole.document)),
        embed_texts(queries, config.model, work_dir / "queries", vector_settings(config, TextRole.query, "")),
    )


def takes_instructions(model: str) -> bool:
    """A Sentence-Transformers model without a query prompt was not trained with instructions; ours are."""
    if not (Path(model) / "modules.json").is_file():
        return True
    settings = Path(model) / "config_sentence_transformers.json"
    prompts = json.loads(settings.read_text(encoding="utf-8")).get("prompts") if settings.is_file() else None
    return bool((prompts or {}).get("query"))
