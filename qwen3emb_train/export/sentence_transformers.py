"""Exports a model directory as a Sentence-Transformers folder in the layout of Qwen/Qwen3-Embedding.

``tests/export`` asserts the keys of every file literally. The folder is written to a temporary place, verified against
the vectors of the trainer, and then renamed, so that an unverified one never has the final name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from qwen3emb_train import lineage
from qwen3emb_train.data.instructions import query_prompt, refuse_template
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.export.backbone import (
    dim_and_positions,
    write_backbone_weights,
    write_config,
    write_json,
    write_tokenizer,
)
from qwen3emb_train.export.card_tables import read_scores
from qwen3emb_train.export.checks import as_figures
from qwen3emb_train.export.hub import HubConfig, push
from qwen3emb_train.export.model_card import embedding_card
from qwen3emb_train.export.verify import require_verified, verify_directory
from qwen3emb_train.export.verify_prompts import TrainedQueryPrompt
from qwen3emb_train.index.query_prompts import QueryPrompts
from qwen3emb_train.model_directory import (
    DOCUMENT,
    LAST_TOKEN,
    NORMALIZE_PATH,
    POOLING_MODES,
    POOLING_PATH,
    PROMPTS_FILE,
    QUERY,
)

PROGRAM = "export"

# The pre-6 module names: old Sentence-Transformers, vLLM and TEI know only these, and version 6 still maps them.
_MODULES = (("Transformer", ""), ("Pooling", POOLING_PATH), ("Normalize", NORMALIZE_PATH))
_OLDEST_READER = "2.7.0"  # the version the official card asks for; a higher one makes older readers warn


class ExportDtype(str, Enum):
    """Data type of the stored weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class ExportConfig:
    """Settings of an export.

    Attributes:
        model: a model directory (a checkpoint's ``model/``, a merge).
        output_dir: the folder to write; its last part names the model on the card.
        dtype: of the stored weights. float16 ends at 65504; larger weights are an error.
        max_tokens: longest text, the EOS token included; at most the positions of the backbone.
        query_instruction: the default task of a query; null = what the model was trained with, "" = queries carry no
            prompt.
        instructions: further tasks, name -> instruction: each becomes a prompt of that name, beside those that the
            model was trained with.
        prompts: further prompts, name -> prefix of a text.
        scores: an evaluation's output_dir (or its results.json), for the card.
        verify: run the checks of ``verify.py`` before publishing.
        base_model: hub name of the base model, for the card.
        license: licence identifier of the hub ("apache-2.0"), for the card.
        hub: upload to the Hugging Face hub; off by default.
    """

    model: str = "???"
    output_dir: str = "???"
    dtype: ExportDtype = ExportDtype.bfloat16
    max_tokens: int = 8192
    query_instruction: str | None = None
    instructions: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    scores: str | None = None
    verify: bool = True
    base_model: str | None = None
    license: str | None = None
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}; a text needs one token and the EOS token (>= 2).")
        for key, instruction in self.given_instructions.items():
            refuse_template(key, instruction)
        taken = {QUERY, DOCUMENT} & {*self.prompts, *self.instructions}
        if taken:
            raise ValueError(
                f"prompts or instructions name {sorted(taken)}: the query's prompt is made from query_instruction, and "
                "documents carry none. Choose other names."
            )
        twice = self.prompts.keys() & self.instructions.keys()
        if twice:
            raise ValueError(f"{sorted(twice)} is in prompts and in instructions. Choose one of them.")

    @property
    def given_instructions(self) -> dict[str, str | None]:
        """By key."""
        others = {f"instructions.{name}": instruction for name, instruction in self.instructions.items()}
        return {"query_instruction": self.query_instruction, **others}

    def all_prompts(self, model: QueryPrompts) -> dict[str, str]:
        """Prefix of a text, by prompt name; what is not given is the model's own."""
        trained = {} if model.trained is None else dict(model.trained.by_name)
        given = self.query_instruction
        query = model.own if given is None else query_prompt(given) if given else ""
        tasks = {name: query_prompt(task) for name, task in self.instructions.items()}
        return trained | {QUERY: query, DOCUMENT: trained.get(DOCUMENT) or ""} | tasks | self.prompts


def export_model(config: ExportConfig) -> Path:
    """Exports, verifies, and returns the folder; does nothing where it is up to date.

    Raises:
        FileNotFoundError: the model directory lacks a file.
        ValueError: a weight is not finite, the directory holds an adapter, or a vector differs from the trainer's.
    """
    source, output = Path(config.model), Path(config.output_dir)
    if not source.is_dir():
        raise FileNotFoundError(f"model {source}: no such directory. Run the stage that writes it, or mend the path.")
    scores = read_scores(Path(config.scores)) if config.scores else []
    inputs = {"model": source} | ({"scores": Path(config.scores)} if config.scores else {})
    settings = lineage.settings_of(config, unrecorded=("hub",))  # where it is sent does not change what it is
    lineage.produce(PROGRAM, output, settings, inputs, lambda made: _write(config, scores, made))
    push(output, config.hub)
    return output


def _write(config: ExportConfig, scores: list[dict[str, Any]], made: lineage.Output) -> dict[str, Any]:
    source, directory = Path(config.model), made.directory
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.dtype.value]
    model = QueryPrompts.of(config.model)
    replace(model, takes_instructions=True).report(config.given_instructions)
    prompts = config.all_prompts(model)
    write_backbone_weights(source, directory, dtype)
    write_config(source, directory, dtype)
    dim, positions = dim_and_positions(source)
    max_tokens = min(config.max_tokens, int(positions or config.max_tokens))
    write_tokenizer(source, directory, load_tokenizer(str(source)), max_tokens)
    write_modules(directory, dim, max_tokens, prompts)
    card = embedding_card(
        Path(config.output_dir).name, made.record, dim=dim, max_tokens=max_tokens, dtype=config.dtype.value,
        prompts=prompts, scores=scores, base_model=config.base_model, license=config.license,
    )  # fmt: skip
    lineage.write_text(directory / "README.md", card)
    trained = TrainedQueryPrompt(None if model.trained is None else model.own, config.query_instruction is not None)
    checks = verify_directory(directory, reference=source, prompts=prompts, trained=trained) if config.verify else []
    require_verified(checks)
    return {
        "prompts": prompts,
        "trained_query_prompt": asdict(trained),
        "verification": as_figures(checks) if checks else {"verified": False},
    }


def write_modules(directory: Path, dim: int, max_tokens: int, prompts: Mapping[str, str]) -> None:
    """Writes the files that make a transformers folder a Sentence-Transformers model.

    The pooling is named by the old booleans, which TEI and vLLM need, and by the new ``pooling_mode``. The new
    ``embedding_dimension`` is left out: Sentence-Transformers before 5.4 passes it to a constructor that does not
    accept it, while later versions read ``word_embedding_dimension``.

    Args:
        directory: of the export.
        dim: components of a vector.
        max_tokens: longest text.
        prompts: by name.
    """
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(_MODULES)
    ]
    pooling = {f"pooling_mode_{mode}": mode == LAST_TOKEN for mode in POOLING_MODES}
    for _, path in _MODULES:
        (directory / path).mkdir(exist_ok=True)
    write_json(directory / "modules.json", modules)
    write_json(
        directory / POOLING_PATH / "config.json",
        {"word_embedding_dimension": dim} | pooling | {"pooling_mode": LAST_TOKEN, "include_prompt": True},
    )
    write_json(directory / NORMALIZE_PATH / "config.json", {})  # a folder without a file does not survive git or a hub
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    write_json(
        directory / PROMPTS_FILE,
        {
            "prompts": dict(prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
            "__version__": {"sentence_transformers": _OLDEST_READER},
        },
    )
