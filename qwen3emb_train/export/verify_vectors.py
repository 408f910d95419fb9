"""Checks of vectors: by transformers, by Sentence-Transformers, against a reference.

All models run in float32, so that differences are due to the rounding of the stored weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from qwen3emb_train.export.backbone import backbone_names, read_json
from qwen3emb_train.export.checks import BrokenPromiseError, Finding, NotApplicableError
from qwen3emb_train.models.precision import resolve_device
from qwen3emb_train.models.text_model import pool_last_token_padded, truncate_and_normalize
from qwen3emb_train.models.weights import StoredWeights

SAME_WEIGHTS = 0.99999
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.999}

Vectors = Float[Tensor, "texts dim"]
Encode = Callable[..., Vectors]


def least_cosine(vectors: Float[Tensor, "texts dim"], expected: Float[Tensor, "texts dim"]) -> float:
    """The smallest cosine of corresponding rows; -1 where one is not finite."""
    return F.cosine_similarity(vectors.double(), expected.double()).nan_to_num(-1.0).min().item()


def encode_by_transformers(
    directory: Path, max_tokens: int, *, weights: Path | None = None, adapter: Path | None = None
) -> Encode:
    """``encode(texts, padding_side)`` by AutoModel and AutoTokenizer, as in the second example of the card.

    Args:
        directory: the folder.
        max_tokens: length limit.
        weights: take the model from this directory instead, but the tokenizer from ``directory``.
        adapter: a LoRA adapter to apply, unmerged.

    Raises:
        BrokenPromiseError: a tensor is missing or has another shape.
    """
    from transformers import AutoModel, AutoTokenizer

    device = resolve_device("auto")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    model, loading = AutoModel.from_pretrained(
        weights or directory, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    lacking = [*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])]
    if lacking:
        raise BrokenPromiseError(f"the weights lack {sorted(lacking)[:5]}, or have them in another shape")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model = model.to(device).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str], padding_side: str = "left") -> Float[Tensor, "texts dim"]:
        tokenizer.padding_side = padding_side
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        batch = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
        states = model(**batch, use_cache=False).last_hidden_state
        return truncate_and_normalize(pool_last_token_padded(states, batch["attention_mask"]).float().cpu())

    return encode


def check_padding(encode: Encode, texts: Sequence[str]) -> Finding:
    """A text has the same vector with left, right and no padding."""
    alone = torch.cat([encode([text]) for text in texts])
    return _agreement(
        {f"{side}-padded": (encode(texts, side), alone) for side in ("left", "right")}, SAME_WEIGHTS, "single texts"
    )


def check_differences(vectors: Float[Tensor, "texts dim"], texts: Sequence[str]) -> Finding:
    """No two different texts have one vector, as they would with an empty vocabulary.

    Raises:
        BrokenPromiseError: two have.
    """
    between = F.cosine_similarity(vectors[:, None].double(), vectors[None].double(), dim=2).fill_diagonal_(-1.0)
    highest, place = float(between.max()), int(between.argmax())
    first, second = divmod(place, len(vectors))
    if highest > 1 - 1e-6:
        raise BrokenPromiseError(f"{texts[first][:40]!r} and {texts[second][:40]!r} have the same vector")
    return Finding(f"highest cosine {highest:.4f}", {"highest": highest})


@dataclass(frozen=True)
class SentenceTransformersReader:
    """A folder as ``SentenceTransformer(path)`` reads it.

    Attributes:
        model: the SentenceTransformer.
        texts: samples.
    """

    model: Any
    texts: list[str]

    @staticmethod
    def load(directory: Path, texts: Sequence[str]) -> "SentenceTransformersReader":
        """Loads the folder.

        Raises:
            NotApplicableError: the package is missing, or this is no Sentence-Transformers folder.
        """
        if not (directory / "modules.json").is_file():
            raise NotApplicableError("no modules.json: not a Sentence-Transformers folder")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise NotApplicableError("pip install 'qwen3emb-train[export]' to check this") from None
        model = SentenceTransformer(
            str(directory),
            device=str(resolve_device("auto")),
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
        return SentenceTransformersReader(model, list(texts))

    def encode(self, texts: Sequence[str], **settings: Any) -> Float[Tensor, "texts dim"]:
        settings = {"convert_to_tensor": True, "show_progress_bar": False} | settings
        return self.model.encode(list(texts), **settings).float().cpu()

    def plain(self) -> Float[Tensor, "texts dim"]:
        """Vectors without any prompt."""
        return self.encode(self.texts, prompt="")


def check_sentence_transformers(reader: SentenceTransformersReader, by_transformers: Vectors | None) -> Finding:
    """Batched and single texts have the same vectors; for last-token models, also in transformers."""
    batch = reader.plain()
    pairs = {"batch": (batch, reader.encode(reader.texts, prompt="", batch_size=1))}
    if by_transformers is not None:
        pairs["transformers"] = (batch, by_transformers)
    return _agreement(pairs, SAME_WEIGHTS, "Sentence-Transformers")


def check_prompts(reader: SentenceTransformersReader, expected: Mapping[str, str] | None) -> Finding:
    """The prompts are the expected ones, and each is applied exactly once.

    Raises:
        BrokenPromiseError: a prompt is missing, differs, is applied without being asked for, or not exactly once.
        NotApplicableError: the folder names no prompts.
    """
    stored = {name: prompt for name, prompt in (reader.model.prompts or {}).items() if prompt}
    wanted = None if expected is None else {name: prompt for name, prompt in expected.items() if prompt}
    for name, prompt in (wanted or {}).items():
        if name not in stored:
            raise BrokenPromiseError(f"the prompt {name!r} is missing; it should be {prompt!r}")
        if stored[name] != prompt:
            raise BrokenPromiseError(f"the prompt {name!r} is {stored[name]!r} instead of {prompt!r}")
    if wanted is not None and reader.model.default_prompt_name is not None:
        raise BrokenPromiseError(f"the prompt {reader.model.default_prompt_name!r} is applied without being asked for")
    if not stored:
        raise NotApplicableError("the folder names no prompts")
    metrics = {}
    for name, prompt in stored.items():
        metrics[name] = _check_one_prompt(reader, name, prompt)
    if "query" in stored:
        asked = reader.model.encode_query(reader.texts, convert_to_tensor=True, show_progress_bar=False).float().cpu()
        metrics["encode_query"] = least_cosine(asked, reader.encode(reader.texts, prompt_name="query"))
        if metrics["encode_query"] < SAME_WEIGHTS:
            raise BrokenPromiseError("encode_query does not apply the prompt 'query'")
    return Finding(f"{', '.join(stored)}: applied once", metrics)


def _check_one_prompt(reader: SentenceTransformersReader, name: str, prompt: str) -> float:
    named = reader.encode(reader.texts, prompt_name=name)
    cosines = {
        times: least_cosine(named, reader.encode([prompt * times + text for text in reader.texts], prompt=""))
        for times in (1, 0, 2)
    }
    if cosines[1] < SAME_WEIGHTS:
        applied = {0: "is not applied", 2: "is applied twice"}
        seen = next(
            (how for times, how in applied.items() if cosines[times] >= SAME_WEIGHTS), "is not applied as it is"
        )
        raise BrokenPromiseError(f"the prompt {name!r} {seen} (cosine {cosines[1]:.6f} to the prompted texts)")
    return cosines[1]


def check_norms(reader: SentenceTransformersReader, must_be_unit: bool) -> Finding:
    """Vectors, and normalised Matryoshka prefixes, have length 1.

    Raises:
        BrokenPromiseError: they do not.
        NotApplicableError: the folder does not normalise its vectors, and need not (``must_be_unit``).
    """
    full = reader.plain()
    if (full.norm(dim=1) - 1).abs().max() > 1e-3:
        if must_be_unit:
            raise BrokenPromiseError(
                f"vectors have lengths up to {full.norm(dim=1).max():.3f}: nothing normalises them"
            )
        raise NotApplicableError("the folder does not normalise its vectors: compare them by cosine only")
    dim = max(1, full.shape[1] // 2)
    cut = reader.encode(reader.texts, prompt="", truncate_dim=dim, normalize_embeddings=True)
    longest = (cut.norm(dim=1) - 1).abs().max().item()
    cosine = least_cosine(cut, truncate_and_normalize(full, dim))
    if longest > 1e-3 or cosine < SAME_WEIGHTS:
        raise BrokenPromiseError(f"cut to {dim} dimensions, vectors are not the normalised prefixes ({cosine:.6f})")
    return Finding(f"length 1, also when cut to {dim} dimensions", {"truncated": cosine})


def check_reference(directory: Path, vectors: Mapping[str, Vectors], reference: Vectors) -> Finding:
    """Every reader gives the vectors of the reference.

    Args:
        directory: the folder; the dtype of its weights decides the tolerance.
        vectors: of the sample texts, by reader.
        reference: vectors of the same texts by the model that was exported.

    Raises:
        BrokenPromiseError: a reader's vectors differ.
        NotApplicableError: there is no reader to compare.
    """
    if not vectors:
        raise NotApplicableError("no reader could be tried")
    least = LEAST_COSINE.get(_stored_dtype(directory), 0.999)
    return _agreement({name: (found, reference) for name, found in vectors.items()}, least, "the reference")


def check_adapter(directory: Path, base: Path, adapter: Path, texts: Sequence[str], max_tokens: int) -> Finding:
    """The vectors are those of the base with the unmerged adapter.

    Args:
        directory: the folder.
        base: directory of the base model.
        adapter: of the adapter.
        texts: samples.
        max_tokens: length limit.

    Raises:
        BrokenPromiseError: they are not.
    """
    vectors = encode_by_transformers(directory, max_tokens)(texts)
    least = LEAST_COSINE.get(_stored_dtype(directory), 0.999)
    merged = encode_by_transformers(directory, max_tokens, weights=base, adapter=adapter)
    cosine = least_cosine(vectors, merged(texts))
    del merged
    if cosine < least:
        plain = least_cosine(vectors, encode_by_transformers(directory, max_tokens, weights=base)(texts))
        what = "they are the base's: the adapter is not merged in" if plain >= least else "nor are they the base's"
        raise BrokenPromiseError(f"vectors are not those of base and adapter (cosine {cosine:.6f}); {what}")
    return Finding(f"least cosine {cosine:.8f}", {"adapter": cosine})


def check_differs_from_base(directory: Path, base: Path) -> Finding:
    """At least one weight differs from the base, rounded to the stored dtype.

    Raises:
        BrokenPromiseError: none does.
    """
    own, other = StoredWeights(directory), StoredWeights(base)
    own_names, other_names = backbone_names(own), backbone_names(other)
    shared = sorted(own_names.keys() & other_names.keys())
    changed = 0
    for name in shared:
        mine, theirs = own.load(own_names[name]), other.load(other_names[name])
        changed += mine.shape != theirs.shape or not torch.equal(mine, theirs.to(mine.dtype))
    if not changed and own_names.keys() == other_names.keys():
        raise BrokenPromiseError(f"all {len(shared)} tensors are the base's: nothing was trained or merged into them")
    return Finding(f"{changed} of {len(shared)} tensors differ")


def _stored_dtype(directory: Path) -> str:
    config = read_json(directory / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _agreement(pairs: Mapping[str, tuple[Vectors, Vectors]], least: float, to_what: str) -> Finding:
    metrics = {name: least_cosine(found, expected) for name, (found, expected) in pairs.items()}
    low = {name: round(cosine, 6) for name, cosine in metrics.items() if not cosine >= least}
    if low:
        raise BrokenPromiseError(f"cosine to {to_what}, at least {least}: {low}")
    return Finding(f"least cosine {min(metrics.values()):.8f} ({', '.join(metrics)})", metrics)
