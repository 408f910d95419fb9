"""torch.compile and Liger's kernels on the encoder's forward and backward pass over packed chunks.

    python scripts/bench/compile.py --model DIRECTORY --layers 4             # CPU; needs g++
    python scripts/bench/compile.py --model Qwen/Qwen3-0.6B --layers 28 --tokens 16384     # GPU, bf16

Each decoder layer is compiled in place with dynamic=True: chunks differ in the number of tokens and texts and in the
longest text, and compiling a graph for each would take hours. ``--attention outside`` (the default) breaks the graph at
the attention function, so that its arguments do not cause recompilation; ``inside`` traces through it. Printed: graphs,
breaks, compile seconds, the number of graphs added by later chunks of other sizes, and differences from eager.

``headline``: seconds of eager over seconds of compiled, without the compile time (above 1: compiled is faster).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import interleaved, print_result, print_table, synchronise  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory or hub name")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048, help="of the first chunk; the others are smaller")
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", choices=["outside", "inside"], default="outside")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="inductor", help="eager: traces the graphs, compiles none")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, graphs traced and not compiled")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        if arguments.smoke:
            from tests.tiny import make_tiny_model_directory

            arguments.model, arguments.backend = str(make_tiny_model_directory(Path(work))), "eager"
            arguments.layers, arguments.tokens, arguments.chunks, arguments.rounds = 2, 128, 3, 1
        if arguments.model is None:
            parser.error("--model is needed (or --smoke)")
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    from torch._dynamo.utils import counters
    from transformers import AttentionInterface

    from qwen3emb_train.models.loading import ModelConfig, load_encoder
    from qwen3emb_train.models.packing import PACKED, packed_attention
    from qwen3emb_train.models.precision import Precision, resolve_precision

    device = torch.device(arguments.device)
    precision = resolve_precision(Precision(arguments.precision), device)

    def load() -> Any:
        return load_encoder(ModelConfig(path=arguments.model, num_layers=arguments.layers)).to(device)

    encoders = {"eager": load(), "compiled": load()}
    if arguments.attention == "outside":
        AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
    for layer in encoders["compiled"].backbone.layers:
        layer.compile(dynamic=True, backend=arguments.backend)
    liger = without_liger(device)
    if liger is None:
        encoders["liger"] = with_liger(load())
    chunks = make_chunks(arguments, int(encoders["eager"].config.vocab_size), device)

    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, encoder in encoders.items():
        started = time.perf_counter()
        found[name] = pass_over(encoder, chunks[0], precision)
        synchronise()
        print(f"{name}: first chunk ({chunks[0].num_tokens} tokens) {time.perf_counter() - started:.1f} s", flush=True)
    differences = {
        name: {"vectors": round(relative(vectors, found["eager"][0]), 9),
               "gradient": round(relative(gradient, found["eager"][1]), 9)}
        for name, (vectors, gradient) in found.items() if name != "eager"
    }  # fmt: skip
    graphs = [counters["stats"]["unique_graphs"]]
    started = time.perf_counter()
    for chunk in chunks[1:]:
        pass_over(encoders["compiled"], chunk, precision)
        graphs.append(counters["stats"]["unique_graphs"])
    breaks = {reason.splitlines()[0]: count for reason, count in counters["graph_break"].items()}
    print(f"graphs after each chunk: {graphs}; breaks: {breaks}; {differences}")
    print(f"the other chunks, compiling included: {time.perf_counter() - started:.1f} s", flush=True)

    tokens = sum(chunk.num_tokens for chunk in chunks)
    steps = {name: all_chunks(encoder, chunks, precision) for name, encoder in encoders.items()}
    seconds = interleaved(steps, arguments.rounds)
    print(f"{tokens} tokens in {len(chunks)} chunks, {arguments.layers} layers, {precision.value} on {device}:")
    ratios = print_table(seconds, seconds["eager"], tokens, "tokens")
    print_result(
        "compile", ratios["compiled"], ratios=ratios, graphs=graphs, graph_breaks=breaks, differences=differences,
        attention=arguments.attention, backend=arguments.backend, liger=liger or "measured", device=str(device),
    )  # fmt: skip


def pass_over(encoder: Any, tokens: Any, precision: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of a chunk, and the gradient of one layer's weight."""
    from qwen3emb_train.models.precision import autocast

    encoder.zero_grad(set_to_none=True)
    with autocast(precision, tokens.input_ids.device):
        vectors = encoder(tokens)
    torch.nn.functional.normalize(vectors, dim=-1).cumsum(0).square().sum().backward()
    return vectors.detach(), encoder.backbone.layers[0].self_attn.k_proj.weight.grad


def all_chunks(encoder: Any, chunks: list[Any], precision: Any) -> Callable[[], None]:
    def step() -> None:
        for chunk in chunks:
            pass_over(encoder, chunk, precision)

    return step


def make_chunks(arguments: argparse.Namespace, vocabulary: int, device: torch.device) -> list[Any]:
    """Packed chunks of falling sizes, texts of log-normal lengths."""
    from qwen3emb_train.data.batches import PackedTokens

    generator = torch.Generator().manual_seed(0)
    chunks = []
    for number in range(arguments.chunks):
        budget = arguments.tokens * (2 * arguments.chunks - number) // (2 * arguments.chunks)
        drawn = torch.empty(budget).log_normal_(3.5, 0.6, generator=generator).long().clamp(2, 512)
        lengths = drawn[drawn.cumsum(0) <= budget]
        ids = torch.randint(1, vocabulary, (int(lengths.sum()),), generator=generator)
        chunks.append(PackedTokens.gather(ids, lengths.cumsum(0) - lengths, lengths).to(device))
    return chunks


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def without_liger(device: torch.device) -> str | None:
    """Why Liger's kernels cannot be measured here; None where they can."""
    if device.type != "cuda":
        return "skipped: its kernels are Triton's, for GPUs"
    return None if find_spec("liger_kernel") else "skipped: liger-kernel is not installed"


def with_liger(encoder: Any) -> Any:
    """Liger's norms and gated units on this one model.

    Not its rotary embedding: that is exchanged in the module, for the other models, too.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[encoder.config.model_type]
    apply(rope=False, cross_entropy=False, fused_linear_cross_entropy=False, model=encoder.backbone)
    return encoder


if __name__ == "__main__":
    main()
