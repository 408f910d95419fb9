"""Exports one ONNX graph from ids to vectors: backbone, last-token pooling and L2 norm, for any batch and length.

The graph finds the last position by the attention mask, so texts may be padded on either side. Attention is eager,
under a finite additive mask: a fully masked row gives no NaN.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qwen3emb_train import lineage
from qwen3emb_train.data.tokenization import load_tokenizer
from qwen3emb_train.export.backbone import write_prompts_beside
from qwen3emb_train.export.samples import REAL_TEXTS
from qwen3emb_train.export.verify_vectors import least_cosine
from qwen3emb_train.index.inference import TextEncoder
from qwen3emb_train.models.loading import quiet_transformers
from qwen3emb_train.models.text_model import pool_last_token_padded, truncate_and_normalize
from qwen3emb_train.models.text_parts import has_text_part

PROGRAM = "export_onnx"
MODEL_FILE = "model.onnx"
LEAST_COSINE = 0.999
_NO_LIMIT = 131_072  # tokens, for families without learned or trained positions


@dataclass
class ExportOnnxConfig:
    """Settings of an ONNX export.

    Attributes:
        model: a model directory or an export.
        output_dir: receives model.onnx (and its data beside it), the tokenizer, the prompts that the model was
            trained with (config_sentence_transformers.json), and run.json.
        verify: embed texts with onnxruntime (where installed), padded left and right, and compare.
    """

    model: str = "???"
    output_dir: str = "???"
    verify: bool = True


class PooledBackbone(nn.Module):
    """Ids and mask to L2-normalised vectors, in standard ONNX operations.

    Attributes:
        backbone: the transformers model, with eager attention.
        causal: whether a token attends to earlier ones only.
    """

    def __init__(self, backbone: nn.Module, causal: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal = causal

    def forward(
        self, input_ids: Int[Tensor, "texts longest"], attention_mask: Int[Tensor, "texts longest"]
    ) -> Float[Tensor, "texts dim"]:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        seen = attention_mask.bool()[:, None, None, :]
        if self.causal:
            seen = seen & (positions[None, :] <= positions[:, None])
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min).expand(-1, -1, input_ids.shape[1], -1)
        states = self.backbone(
            input_ids=input_ids,
            attention_mask=bias,
            position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return truncate_and_normalize(pool_last_token_padded(states, attention_mask))


def export_onnx(config: ExportOnnxConfig) -> Path:
    """Writes and verifies the graph; returns its path.

    Raises:
        FileNotFoundError: the model directory lacks a file.
        ImportError: ``onnx`` or ``onnxscript`` is missing.
        ValueError: the model's attention has no plain mask, or onnxruntime's vectors differ from ours.
    """
    source, output = Path(config.model), Path(config.output_dir)
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"An ONNX export needs {package}: pip install 'qwen3emb-train[onnx]'")

    def write(made: lineage.Output) -> dict[str, Any]:
        write_onnx(source, made.directory / MODEL_FILE)
        load_tokenizer(str(source)).save(made.directory)
        write_prompts_beside(source, made.directory)
        figures = compare_with_onnxruntime(made.directory, source) if config.verify else {"verified": False}
        print("  onnxruntime: " + ", ".join(f"{name} {figure}" for name, figure in figures.items()))
        return {"verification": figures}

    lineage.produce(PROGRAM, output, lineage.settings_of(config), {"model": source}, write)
    return output / MODEL_FILE


def write_onnx(source: Path, file: Path) -> None:
    """Traces the model with a batch of two; writes the graph, and its float32 weights in ``model.onnx.data``.

    Raises:
        ValueError: the model has sliding-window layers.
    """
    from transformers import AutoConfig, AutoModel

    if has_text_part(AutoConfig.from_pretrained(source, trust_remote_code=False)):
        raise ValueError(
            f"{source}: is a vision-language model. Export its language model first (program export), then that."
        )
    with quiet_transformers():
        backbone: Any = AutoModel.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
        ).eval()
    config = backbone.config
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError(f"{source}: has sliding-window layers, which this graph does not support.")
    model = PooledBackbone(backbone, causal=bool(getattr(config, "is_causal", True)))
    longest = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
    axes = {0: torch.export.Dim("batch", min=1, max=65536), 1: torch.export.Dim("sequence", min=2, max=longest)}
    ids = torch.ones(2, 6, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports missing parts of torchvision
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter about itself
        program: Any = torch.onnx.export(
            model,
            (ids, mask),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            verbose=False,
        )
        program.save(file, external_data=True)


def compare_with_onnxruntime(directory: Path, source: Path) -> dict[str, Any]:
    """Least cosines between the vectors of onnxruntime and ours, by padding side.

    Raises:
        ValueError: one is below 0.999.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return {"skipped": "onnxruntime is not installed: pip install 'qwen3emb-train[onnx]' and export again"}
    expected = TextEncoder.load(str(source), precision="fp32", device="cpu").encode(REAL_TEXTS)
    metrics = {
        f"least_cosine_{side}_padded": least_cosine(embed_with_onnxruntime(directory, REAL_TEXTS, side), expected)
        for side in ("left", "right")
    }
    if not min(metrics.values()) >= LEAST_COSINE:
        raise ValueError(
            f"onnxruntime's vectors differ from ours; below {LEAST_COSINE} nothing is published: {metrics}"
        )
    return metrics | {"num_texts": len(REAL_TEXTS)}


def embed_with_onnxruntime(
    directory: Path, texts: tuple[str, ...], padding_side: str, texts_per_batch: int = 16
) -> Float[Tensor, "texts dim"]:
    """Vectors from the graph and the exported tokenizer.

    Args:
        directory: of the export.
        texts: to embed.
        padding_side: "left" or "right".
        texts_per_batch: texts in one call.
    """
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(directory / MODEL_FILE, options, providers=["CPUExecutionProvider"])
    tokenizer: Any = AutoTokenizer.from_pretrained(directory, padding_side=padding_side, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    vectors = []
    for first in range(0, len(texts), texts_per_batch):
        batch = tokenizer(list(texts[first : first + texts_per_batch]), padding=True, return_tensors="np")
        inputs = {name: batch[name].astype("int64") for name in ("input_ids", "attention_mask")}
        vectors.append(torch.from_numpy(session.run(["sentence_embedding"], inputs)[0]))
    return torch.cat(vectors)
