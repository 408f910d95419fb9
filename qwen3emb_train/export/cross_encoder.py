"""Exports a yes/no reranker for transformers' causal LM, vLLM, and Sentence-Transformers' CrossEncoder.

The layout is that of Qwen/Qwen3-Reranker on the Hugging Face hub: the causal LM unchanged, and the modules
[Transformer, LogitScore] with a chat template of the roles system (the instruction), query and document.
Sentence-Transformers restores the end of the template after truncation, so the suffix is never lost.
"""

import json
import re
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import (
    RERANKER_BODY,
    RERANKER_PREFIX,
    RERANKER_SUFFIX,
    refuse_template,
)
from qwen3emb_train.export.backbone import (
    dim_and_positions,
    write_causal_lm_weights,
    write_config,
    write_json,
    write_reranker_tokenizer,
)
from qwen3emb_train.export.checks import as_figures
from qwen3emb_train.export.model_card import reranker_card
from qwen3emb_train.export.verify import require_verified, verify_directory
from qwen3emb_train.export.verify_prompts import TrainedQueryPrompt
from qwen3emb_train.index.query_prompts import report_difference
from qwen3emb_train.index.rerankers import own_instruction
from qwen3emb_train.model_directory import PROMPTS_FILE, Prompts

PROGRAM = "export_reranker"

_MODULES = (
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
)
_OLDEST_READER = "5.4.0"  # the first that knows LogitScore
_FORWARD = {"method": "forward", "method_output_name": "logits"}


class RerankerDtype(str, Enum):
    """Data type of the stored weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class ExportRerankerConfig:
    """Settings of the export of a reranker.

    Attributes:
        model: a model directory of a causal LM: with its own lm_head, or tied to its embedding.
        output_dir: the folder to write; its last part names the model on the card.
        dtype: of the stored weights.
        max_tokens: longest text, prefix and suffix included; never more than the model's positions.
        instruction: default task of the reranker; null = what it was trained with.
        verify: compare CrossEncoder's scores with the plain logits before publishing.
        base_model: hub name of the base model, for the card.
        license: licence identifier of the hub ("apache-2.0"), for the card.
    """

    model: str = "???"
    output_dir: str = "???"
    dtype: RerankerDtype = RerankerDtype.bfloat16
    max_tokens: int = 8192
    instruction: str | None = None
    verify: bool = True
    base_model: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.instruction == "":
            raise ValueError(
                "instruction is empty: the reranker's template has a place for it. Name the task, or leave it out for "
                "what the model was trained with."
            )
        refuse_template("instruction", self.instruction)


def export_reranker(config: ExportRerankerConfig) -> Path:
    """Exports, verifies, and returns the folder; does nothing where it is up to date.

    Raises:
        FileNotFoundError: the model directory lacks a file.
        ValueError: an answer is not one token, lm_head is missing, a weight is not finite, or a score differs.
    """
    source, output = Path(config.model), Path(config.output_dir)
    if not source.is_dir():
        raise FileNotFoundError(f"model {source}: no such directory. Run the stage that writes it, or mend the path.")
    settings = lineage.settings_of(config)
    lineage.produce(PROGRAM, output, settings, {"model": source}, lambda made: _write(config, made))
    return output


def _write(config: ExportRerankerConfig, made: lineage.Output) -> dict[str, Any]:
    source, directory, dtype = Path(config.model), made.directory, getattr(torch, config.dtype.value)
    hf_config = write_config(source, directory, dtype)
    write_causal_lm_weights(source, directory, dtype, tied=bool(hf_config.get("tie_word_embeddings")))
    max_tokens = min(config.max_tokens, dim_and_positions(source)[1] or config.max_tokens)
    tokenizer = write_reranker_tokenizer(source, directory, max_tokens)
    true_id, false_id = tokenizer.answer_ids
    trained = Prompts.read(source)
    known = None if trained is None else [own_instruction(trained), *trained.of_queries]
    report_difference(config.model, known, {"instruction": config.instruction})
    instruction = config.instruction or own_instruction(trained)
    _write_modules(directory, {"true_token_id": true_id, "false_token_id": false_id}, instruction)
    card = reranker_card(
        Path(config.output_dir).name, made.record, instruction=instruction, max_tokens=max_tokens,
        base_model=config.base_model, license=config.license,
    )  # fmt: skip
    lineage.write_text(directory / "README.md", card)
    prompt = TrainedQueryPrompt(None if trained is None else own_instruction(trained), config.instruction is not None)
    checks = verify_directory(directory, trained=prompt) if config.verify else []
    require_verified(checks)
    return {
        "trained_query_prompt": asdict(prompt),
        "verification": as_figures(checks) if checks else {"verified": False},
    }


def chat_template(default_instruction: str) -> str:
    """The Jinja template that renders (system, query, document) messages to ``instructions.reranker_text``."""
    pieces = []
    for number, piece in enumerate(re.split(r"\{(\w+)\}", RERANKER_BODY)):
        pieces.append(piece if number % 2 else _literal(piece))
    body = " ~ ".join(piece for piece in pieces if piece != '""')
    return "".join(
        [
            _lookup("instruction", "system", f" | default({_literal(default_instruction)}, true)"),
            _lookup("query", "query"),
            _lookup("document", "document"),
            f"{{{{- {_literal(RERANKER_PREFIX)} ~ {body} ~ {_literal(RERANKER_SUFFIX)} -}}}}",
        ]
    )


def _lookup(variable: str, role: str, otherwise: str = "") -> str:
    chosen = f'messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first'
    return f"{{%- set {variable} = {chosen}{otherwise} -%}}\n"


def _literal(text: str) -> str:
    """A Jinja string literal, which has the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _write_modules(directory: Path, answers: dict[str, int], instruction: str) -> None:
    """Files of Sentence-Transformers."""
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind} for number, (path, kind) in enumerate(_MODULES)
    ]
    (directory / "1_LogitScore").mkdir()
    write_json(directory / "modules.json", modules)
    write_json(directory / "1_LogitScore" / "config.json", answers)
    write_json(
        directory / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": _FORWARD, "message": _FORWARD | {"format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    write_json(
        directory / PROMPTS_FILE,
        {
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {"query": instruction},
            "default_prompt_name": "query",
            "__version__": {"sentence_transformers": _OLDEST_READER},
        },
    )
    lineage.write_text(directory / "chat_template.jinja", chat_template(instruction))
