"""Does an exported folder give the trainer's vectors? Asked of plain transformers and of Sentence-Transformers.

Computed in float32 on both sides, so the figures show the rounding of the stored weights and nothing else. Batches
padded on either side are compared with single texts, which also shows whether the installed transformers honours
``is_causal: false`` of a bidirectional backbone under every mask.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.export.backbone import read_json
from qwen3emb_train.models.inference import TextEncoder
from qwen3emb_train.models.pooling import pool_last_token_padded, truncate_and_normalize
from qwen3emb_train.models.precision import resolve_device

LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.999}
_TRUNCATED = 8
_SHORT_TEXTS = (
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "a",
    "Wie hoch ist der Berg, und wie lange dauert der Weg zum Gipfel?",
    "重力是物体之间的相互吸引。",
    "Το νερό βράζει στους εκατό βαθμούς.",
    "def add(a, b):\n    return a + b",
    "ما هي عاصمة مصر؟ 🙂",
)
SAMPLE_TEXTS = (*_SHORT_TEXTS, " ".join(_SHORT_TEXTS * 12))


def verify_export(directory: Path, encoder_path: Path) -> dict[str, Any]:
    """Compares vectors and ids of ``directory`` with those of the trainer's encoder at ``encoder_path``.

    Returns:
        The least cosine over the sample texts of every way of reading the folder, and the threshold they met. Where
        Sentence-Transformers is not installed, its entry says so.

    Raises:
        ValueError: a cosine is below the threshold, or ids differ; the message holds all figures.
    """
    max_tokens = int(read_json(directory / "sentence_bert_config.json")["max_seq_length"])
    least = LEAST_COSINE[read_json(directory / "config.json")["dtype"]]
    prompts: dict[str, str] = read_json(directory / "config_sentence_transformers.json")["prompts"]
    prompts = {name: prompt for name, prompt in prompts.items() if prompt}

    trainer = TextEncoder.load(str(encoder_path), max_tokens=max_tokens, precision="fp32")
    expected = trainer.encode(SAMPLE_TEXTS)
    prompted = {name: trainer.encode([prompt + text for text in SAMPLE_TEXTS]) for name, prompt in prompts.items()}
    tokenizer = trainer.tokenizer
    del trainer  # the next models need its memory

    figures: dict[str, Any] = {"least_cosine_allowed": least}
    figures |= _check_transformers(directory, tokenizer, expected, max_tokens)
    figures |= _check_sentence_transformers(directory, expected, prompted)
    failed = {key: value for key, value in figures.items() if isinstance(value, float) and not value >= least}
    if failed:
        raise ValueError(
            f"The export's vectors are not the trainer's; it was not published. Below {least}: {failed}. "
            f"All: {figures}. If float16 or bfloat16 is to blame, export float32."
        )
    return figures


def _check_transformers(
    directory: Path, trainer_tokenizer: TextTokenizer, expected: Float[Tensor, "texts dim"], max_tokens: int
) -> dict[str, Any]:
    """AutoTokenizer and AutoModel, as the card's second example uses them."""
    from transformers import AutoModel, AutoTokenizer

    device = resolve_device("auto")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    for limit in (max_tokens, min(_TRUNCATED, max_tokens)):
        ids = tokenizer(list(SAMPLE_TEXTS), truncation=True, max_length=limit)["input_ids"]
        wanted = trainer_tokenizer.tokenize(SAMPLE_TEXTS, limit)
        if ids != wanted:
            row = next(i for i in range(len(ids)) if ids[i] != wanted[i])
            raise ValueError(
                f"The exported tokenizer gives other ids than the trainer's for {SAMPLE_TEXTS[row][:60]!r} at "
                f"max_length {limit}: {ids[row][:12]}... instead of {wanted[row][:12]}... (the last one must be the "
                f"closing token, {trainer_tokenizer.closing_token_id})."
            )
    model, loading = AutoModel.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    if loading["missing_keys"]:
        raise ValueError(f"The exported weights lack {sorted(loading['missing_keys'])[:5]}.")
    model = model.to(device).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str], padding_side: str) -> Float[Tensor, "texts dim"]:
        tokenizer.padding_side = padding_side
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        batch = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
        states = model(**batch, use_cache=False).last_hidden_state
        return truncate_and_normalize(pool_last_token_padded(states, batch["attention_mask"]).float().cpu())

    return {
        "transformers_left_padded": _least_cosine(encode(SAMPLE_TEXTS, "left"), expected),
        "transformers_right_padded": _least_cosine(encode(SAMPLE_TEXTS, "right"), expected),
        "transformers_single": _least_cosine(torch.cat([encode([text], "left") for text in SAMPLE_TEXTS]), expected),
    }


def _check_sentence_transformers(
    directory: Path, expected: Float[Tensor, "texts dim"], prompted: Mapping[str, Float[Tensor, "texts dim"]]
) -> dict[str, Any]:
    """SentenceTransformer(path), without a prompt, one at a time, and with each named prompt."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return {"sentence_transformers": "skipped: pip install 'qwen3emb-train[export]' and export again to check it"}
    model: Any = SentenceTransformer(
        str(directory),
        device=str(resolve_device("auto")),
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )
    encode: Callable[..., Tensor] = model.encode
    texts, quiet = list(SAMPLE_TEXTS), {"convert_to_tensor": True, "show_progress_bar": False}
    figures = {
        "sentence_transformers": _least_cosine(encode(texts, **quiet).cpu(), expected),
        "sentence_transformers_single": _least_cosine(encode(texts, batch_size=1, **quiet).cpu(), expected),
    }
    for name, vectors in prompted.items():
        figures[f"sentence_transformers_prompt_{name}"] = _least_cosine(
            encode(texts, prompt_name=name, **quiet).cpu(), vectors
        )
    return figures


def _least_cosine(vectors: Float[Tensor, "texts dim"], expected: Float[Tensor, "texts dim"]) -> float:
    return F.cosine_similarity(vectors.double(), expected.double()).min().item()
