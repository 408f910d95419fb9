"""README.md of an export: front matter, usage, scores and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3emb_train.export import card_tables
from qwen3emb_train.export.card_tables import cell
from qwen3emb_train.lineage import RunRecord

_EMBEDDING = """\
# {title}

A text-embedding model: {dim} dimensions, up to {max_tokens} tokens, weights in {dtype}. The vector of a text is the
last layer's state at the EOS token, L2-normalised; similarity is the cosine. It was made with `qwen3emb_train`
after the recipe of *Qwen3 Embedding* (arXiv 2506.05176){base}.

## Use

{prompts}

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

The tokenizer appends the EOS token itself. Padding on the left puts it last in every row; if you pad on the right,
take each row's last position under the attention mask instead.

### vLLM and Text Embeddings Inference

```sh
vllm serve NAME --runner pooling
text-embeddings-router --model-id NAME
```

Both read pooling and limits from the folder; neither puts a prompt before a text unasked, so send queries with theirs.

## Shorter vectors

{matryoshka}
With Sentence-Transformers: `encode(..., truncate_dim=..., normalize_embeddings=True)`; elsewhere cut the vector first
and normalise it afterwards. vLLM needs `--hf-overrides '{{"is_matryoshka": true}}'` and `dimensions` in the request.

{scores}## Limits

{limits}

## How it was made

`run.json` holds every configuration, version and input digest. In short, the newest first:

{provenance}
"""

_RERANKER = """\
# {title}

A reranker: it reads a query and a document together, up to {max_tokens} tokens, and its score is logit(yes) - logit(no)
at the last position; the sigmoid of it is the probability of yes. It was made with
`qwen3emb_train` after the recipe of *Qwen3 Embedding* (arXiv 2506.05176){base}.

## Use

### Sentence-Transformers (5.4 or later)

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder({name!r})  # a path or a hub name
print(model.predict([("What is the capital of China?", "The capital of China is Beijing.")]))
```

Another task: `predict(pairs, prompt="...")`. The default is: {instruction}

### vLLM

```sh
vllm serve NAME --runner pooling --hf-overrides '{{"architectures": ["Qwen3ForSequenceClassification"], \
"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true}}'
```

`chat_template.jinja` holds the text that the model reads; an endpoint that does not apply it must be sent all of it.

## Limits

What is too long is cut from the end of the document. Scores of different instructions are not on one scale.

## How it was made

{provenance}
"""


def embedding_card(
    name: str,
    record: RunRecord,
    *,
    dim: int,
    max_tokens: int,
    dtype: str,
    prompts: Mapping[str, str],
    scores: Sequence[Mapping[str, Any]] = (),
    base_model: str | None,
    license: str | None,
) -> str:
    """The text of README.md of an embedding model.

    Args:
        name: of the model.
        record: of the export, with its ancestry in ``parents``.
        dim: components of a vector.
        max_tokens: longest text.
        dtype: of the stored weights.
        prompts: by name.
        scores: rows of ``results.json``.
        base_model: hub name; None: not stated.
        license: hub identifier; None: not stated.
    """
    query_prompt = prompts.get("query", "")
    body = _EMBEDDING.format(
        title=cell(name), name=name, dim=dim, max_tokens=max_tokens, dtype=dtype, base=_after(base_model),
        prompts=_prompts(prompts), prompt_argument=', prompt_name="query"' if query_prompt else "",
        query=query_prompt + "What is the capital of China?",
        matryoshka=_matryoshka(record, scores), scores=_scores(scores),
        limits=_limits(max_tokens, scores), provenance=_provenance(record),
    )  # fmt: skip
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    return _with_front_matter(body, tags, "feature-extraction", base_model, license)


def reranker_card(
    name: str,
    record: RunRecord,
    *,
    instruction: str,
    max_tokens: int,
    base_model: str | None,
    license: str | None,
) -> str:
    """The text of README.md of a reranker.

    Args:
        name: of the model.
        record: of the export, with its ancestry in ``parents``.
        instruction: the default one.
        max_tokens: longest text, prefix and suffix included.
        base_model: hub name; None: not stated.
        license: hub identifier; None: not stated.
    """
    body = _RERANKER.format(
        title=cell(name), name=name, max_tokens=max_tokens, base=_after(base_model),
        instruction=cell(instruction), provenance=_provenance(record),
    )  # fmt: skip
    return _with_front_matter(body, ["sentence-transformers", "cross-encoder"], "text-ranking", base_model, license)


def _with_front_matter(
    body: str, tags: list[str], pipeline_tag: str, base_model: str | None, license: str | None
) -> str:
    from huggingface_hub import ModelCardData

    front_matter = ModelCardData(
        base_model=base_model,
        license=license,
        library_name="sentence-transformers",
        pipeline_tag=pipeline_tag,
        tags=tags,
    ).to_yaml()
    return f"---\n{front_matter}\n---\n\n{body}"


def _after(base_model: str | None) -> str:
    return f", from {cell(base_model)}" if base_model else ""


def _prompts(prompts: Mapping[str, str]) -> str:
    named = {name: prompt for name, prompt in prompts.items() if prompt}
    if not named:
        return "Neither queries nor documents carry a prompt."
    rows = [[name, prompt.replace("\n", "\\n")] for name, prompt in named.items()]
    said = (
        "Queries carry an instruction, documents do not. Write instructions in English, whatever the texts' language."
    )
    return f"{said}\n\n{card_tables.table(['prompt_name', 'what stands before the text'], rows)}"


def _matryoshka(record: RunRecord, scores: Sequence[Mapping[str, Any]]) -> str:
    dims = card_tables.trained_dims(record)
    said = f"Trained for the first {', '.join(map(str, dims))} dimensions." if dims else (
        "No shorter prefix was trained: measure before you cut."
    )  # fmt: skip
    measured = card_tables.matryoshka_table(scores) if scores else None
    return f"{said}\n\n{measured}\n" if measured else said


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    return f"## Scores\n\n{card_tables.scores_table(scores)}\n\n" if scores else ""


def _limits(max_tokens: int, scores: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"- Texts beyond {max_tokens} tokens are cut.",
        "- Scores of different instructions, or of queries with and without one, are not on one scale.",
        "- For languages and domains that the tables below do not name, evaluate before use.",
    ]
    if not scores:
        lines.append("- No evaluation is recorded in this card.")
    return "\n".join(lines)


def _provenance(record: RunRecord) -> str:
    parts = [card_tables.steps_table(record)]
    data, settings = card_tables.data_table(record), card_tables.settings_table(record)
    if data is not None:
        parts.append(f"### Training data\n\n{data}")
    if settings is not None:
        parts.append(f"### Settings\n\n{settings}")
    return "\n\n".join(parts)
