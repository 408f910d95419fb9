"""Checks of the folder of a reranker: ids of the template, and scores of CrossEncoder against the logits."""

from pathlib import Path
from typing import Any

import torch

from qwen3emb_train.data.instructions import RERANKER_ANSWERS, RERANKER_PREFIX, RERANKER_SUFFIX, reranker_body
from qwen3emb_train.export.backbone import read_json
from qwen3emb_train.export.checks import BrokenPromiseError, Checklist, Finding, NotApplicableError
from qwen3emb_train.models.precision import resolve_device

PAIRS = (
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("Explain gravity", "重力是物体之间的相互吸引。"),
    ("{{ braces }} <|and|> `ticks`", "Le chat dort sur le canapé.\n"),
    ("", "x"),
    ("how do I sort a list?", "Return a new sorted list from the items in iterable. " * 40),
)
_INSTRUCTION = 'Judge by topic: {instruction} & "quotes"'
_TOLERANCE = 1e-3  # of scores, in float32; they spread over tens
_TEMPLATE, _SCORES = "template to the token", "CrossEncoder = logit(yes) - logit(no)"


def is_reranker(directory: Path) -> bool:
    """Whether the folder is a CrossEncoder of a causal LM."""
    file = directory / "config_sentence_transformers.json"
    return (
        file.is_file()
        and read_json(file).get("model_type") == "CrossEncoder"
        and (directory / "1_LogitScore" / "config.json").is_file()
    )


def reranker_checks(directory: Path, checklist: Checklist, weights: str) -> None:
    """Runs the checks of template, truncation and scores, which need Sentence-Transformers.

    Args:
        directory: the folder.
        checklist: receives the results.
        weights: name of the check without which no model can be loaded.
    """
    loaded: list[Any] = []

    def model() -> Any:
        if not loaded:
            loaded.append(_load(directory))
        return loaded[0]

    checklist.run(_TEMPLATE, lambda: _check_template(directory, model()), [weights])
    checklist.run("truncation keeps the suffix", lambda: _check_truncation(directory, model()), [weights, _TEMPLATE])
    checklist.run(_SCORES, lambda: _check_scores(directory, model()), [weights])


def _load(directory: Path) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise NotApplicableError("pip install 'qwen3emb-train[export]' to check this") from None
    return CrossEncoder(
        str(directory),
        device=str(resolve_device("auto")),
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )


def expected_ids(
    tokenizer: Any, instruction: str, query: str, document: str, max_tokens: int | None = None
) -> list[int]:
    """Ids of the template; longer texts are truncated at the end of the body, never in prefix or suffix.

    Independent of ``RerankerTokenizer``, which wrote the export.

    Args:
        tokenizer: of transformers.
        instruction, query, document: of the template.
        max_tokens: length limit; None: no truncation.
    """
    prefix, body, suffix = (
        list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (RERANKER_PREFIX, reranker_body(instruction, query, document), RERANKER_SUFFIX)
    )
    if max_tokens is not None:
        body = body[: max(0, max_tokens - len(prefix) - len(suffix))]
    return prefix + body + suffix


def _rendered_ids(model: Any, instruction: str) -> list[list[int]]:
    features = model.preprocess([list(pair) for pair in PAIRS], prompt=instruction)
    rows = zip(features["input_ids"], features["attention_mask"], strict=True)
    return [row[mask.bool()].tolist() for row, mask in rows]


def _check_template(directory: Path, model: Any) -> Finding:
    template = directory / "chat_template.jinja"
    if not template.is_file() or "Judge whether the Document" not in template.read_text(encoding="utf-8"):
        raise NotApplicableError("another template than Qwen3-Reranker's")
    for pair, ids in zip(PAIRS, _rendered_ids(model, _INSTRUCTION), strict=True):
        wanted = expected_ids(model.tokenizer, _INSTRUCTION, *pair, model.max_seq_length)
        if ids != wanted:
            raise BrokenPromiseError(
                f"{pair[0][:40]!r} is rendered as {model.tokenizer.decode(ids)[-120:]!r}, not as the template has it"
            )
    stored = read_json(directory / "1_LogitScore" / "config.json")
    answers = [model.tokenizer.encode(answer, add_special_tokens=False) for answer in RERANKER_ANSWERS]
    if answers != [[stored["true_token_id"]], [stored["false_token_id"]]]:
        raise BrokenPromiseError(f"1_LogitScore/config.json is {stored}, but yes and no are {answers}")
    return Finding(f"{len(PAIRS)} pairs; yes is {stored['true_token_id']}, no {stored['false_token_id']}")


def _check_truncation(directory: Path, model: Any) -> Finding:
    longest, limit = model.max_seq_length, len(expected_ids(model.tokenizer, "", "", "")) + 20
    model.max_seq_length = limit
    try:
        for pair, ids in zip(PAIRS, _rendered_ids(model, _INSTRUCTION), strict=True):
            if ids != expected_ids(model.tokenizer, _INSTRUCTION, *pair, limit):
                raise BrokenPromiseError(f"cut to {limit} tokens, {pair[0][:40]!r} ends with {ids[-12:]}")
    finally:
        model.max_seq_length = longest
    return Finding(f"cut to {limit} tokens")


def _check_scores(directory: Path, model: Any) -> Finding:
    """Written independently of Sentence-Transformers: one pair at a time, without padding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answers = read_json(directory / "1_LogitScore" / "config.json")
    instruction = (model.prompts or {}).get(model.default_prompt_name or "")
    if instruction is None or answers.get("false_token_id") is None:
        raise NotApplicableError("another way of scoring than Qwen3-Reranker's")
    scores = torch.as_tensor(model.predict([list(pair) for pair in PAIRS], show_progress_bar=False)).float()
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    plain = (
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
        .to(model.device)
        .eval()
    )
    wanted = []
    for pair in PAIRS:
        ids = torch.tensor([expected_ids(tokenizer, instruction, *pair, model.max_seq_length)], device=model.device)
        with torch.inference_mode():
            logits = plain(ids).logits[0, -1]
        wanted.append(float(logits[answers["true_token_id"]] - logits[answers["false_token_id"]]))
    furthest = (scores - torch.tensor(wanted)).abs().max().item()
    if not furthest <= _TOLERANCE:
        raise BrokenPromiseError(f"scores {scores.tolist()}, by the plain logits {wanted}")
    return Finding(f"largest difference {furthest:.2e} over {len(PAIRS)} pairs", {"largest_difference": furthest})
