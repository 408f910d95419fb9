"""What a training run's model directories say of the instructions before its queries."""

from collections import Counter
from collections.abc import Callable, Mapping

from qwen3emb_train.data.instructions import Template, query_prompt
from qwen3emb_train.data.mixture import SourceConfig
from qwen3emb_train.data.token_store import TokenStore
from qwen3emb_train.model_directory import DOCUMENT, QUERY, Prompts


def trained_prompts(
    sources: Mapping[str, SourceConfig], stores: Mapping[str, TokenStore], template: Template
) -> Prompts:
    """The prompt ``query`` is that of the most rows; where sources differ, each has a prompt of its own name as well.

    Args:
        sources, stores: by name.
        template: an embedding model's prompts hold the template, a reranker's are the instructions.
    """
    total: Counter[str] = Counter()
    for name, store in stores.items():
        limit = sources[name].max_rows
        used = 1.0 if limit is None else min(1.0, limit / store.num_rows)
        for instruction, rows in store.instructions.items():
            total[instruction] += round(rows * used)
    prompt: Callable[[str], str] = _prompt if template is Template.embedding else str
    by_name = {QUERY: prompt(_most_common(total))}
    if template is Template.embedding:
        by_name[DOCUMENT] = ""
    of_source = {name: _most_common(store.instructions) for name, store in stores.items()}
    if len(set(of_source.values())) > 1:
        for name, instruction in of_source.items():
            by_name[f"data_{name}" if name in by_name else name] = prompt(instruction)
    return Prompts(by_name, None if template is Template.embedding else QUERY)


def _prompt(instruction: str) -> str:
    return query_prompt(instruction) if instruction else ""


def _most_common(rows: Mapping[str, int]) -> str:
    """Of equals the first."""
    return max(rows, key=lambda instruction: rows[instruction], default="")
