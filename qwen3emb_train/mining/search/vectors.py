"""Vectors of the documents and the queries, by any kind of model."""

from pathlib import Path

from qwen3emb_train.index.embed_config import TextRole, embed_config
from qwen3emb_train.index.embed_texts import embed_texts
from qwen3emb_train.index.vector_store import VectorStore
from qwen3emb_train.mining.config import MiningConfig
from qwen3emb_train.mining.queries import SearchProblem


def embed_problem(problem: SearchProblem, config: MiningConfig, work_dir: Path) -> tuple[VectorStore, VectorStore]:
    """Stores of the documents' and the queries' vectors; written, continued or reused.

    Args:
        problem: the texts.
        config: which model.
        work_dir: parent of the stores.

    Raises:
        ValueError: ``work_dir`` holds vectors of other texts (names one) or of another model, and ``overwrite`` is off.
    """
    documents = zip(problem.pool.ids, problem.pool.texts, strict=True)
    # Prompts include their instructions, which differ from query to query: the model must add none.
    takes_instructions = problem.prompts.takes_instructions
    queries = (
        (f"query {number}", query.prompt if takes_instructions else query.text)
        for number, query in enumerate(problem.queries)
    )
    return (
        embed_texts(documents, config.model, work_dir / "documents", embed_config(config, TextRole.document)),
        embed_texts(queries, config.model, work_dir / "queries", embed_config(config, TextRole.query, "")),
    )
