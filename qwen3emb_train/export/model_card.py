"""README.md of an export: front matter made by huggingface_hub, usage, and where the model comes from."""

from collections.abc import Iterator, Mapping
from typing import Any

from qwen3emb_train.lineage import RunRecord

_BODY = """\
# {name}

A text-embedding model: {dim} dimensions, up to {max_tokens} tokens. The vector of a text is the last layer's state at
the closing token, L2-normalised; similarity is the cosine. It was made with `qwen3emb_train` after the recipe of
*Qwen3 Embedding* (arXiv 2506.05176).

## Use

Queries carry an instruction, documents do not.

### Sentence-Transformers

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name!r})  # a path or a hub name
queries = model.encode(["What is the capital of China?"]{prompt_argument})
documents = model.encode(["The capital of China is Beijing."])
print(model.similarity(queries, documents))
```

### transformers

```python
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name!r}, padding_side="left")
model = AutoModel.from_pretrained({name!r}).eval()
texts = [{query!r}, "The capital of China is Beijing."]
batch = tokenizer(texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
with torch.inference_mode():
    vectors = F.normalize(model(**batch).last_hidden_state[:, -1], dim=-1)
print(vectors[:1] @ vectors[1:].T)
```

The tokenizer appends the closing token itself. Padding on the left puts it last in every row; if you pad on the right,
take each row's last position under the attention mask instead. For a shorter vector, cut it *before* normalising.

## How it was made

`run.json` holds every configuration, version and input digest. In short, the newest first:

| program | finished (UTC) | figures |
|---|---|---|
{steps}
"""


def model_card(
    name: str,
    record: RunRecord,
    *,
    dim: int,
    max_tokens: int,
    query_instruction: str,
    base_model: str | None,
    license: str | None,
) -> str:
    """The whole text of README.md; ``record`` is the export's own, with its ancestry in ``parents``."""
    from huggingface_hub import ModelCardData

    from qwen3emb_train.data.instructions import format_query

    front_matter = ModelCardData(
        base_model=base_model,
        license=license,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction"],
    ).to_yaml()
    body = _BODY.format(
        name=name,
        dim=dim,
        max_tokens=max_tokens,
        prompt_argument=', prompt_name="query"' if query_instruction else "",
        query=format_query(query_instruction, "What is the capital of China?"),
        steps="\n".join(_steps(vars(record))),
    )
    return f"---\n{front_matter}\n---\n\n{body}"


def _steps(record: Mapping[str, Any]) -> Iterator[str]:
    """One table row for a run and each of its ancestors; figures only, since configurations may name private paths."""
    figures = "<br>".join(_figures(record["metrics"])).replace("|", "\\|")
    yield f"| {record['program']} | {record['finished']} | {figures} |"
    for parent in record["parents"].values():
        yield from _steps(parent)


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {value:.6g}" if isinstance(value, float) else f"{prefix}{name}: {value}"
