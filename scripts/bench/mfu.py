"""Model FLOPs utilisation of whole training steps at Qwen3-0.6B's shape (random weights). For GPUs.

    python scripts/bench/mfu.py                          # H100/H200: 28 layers, bf16, texts of 64 - 512 tokens
    python scripts/bench/mfu.py --smoke                  # does it run? a tiny shape on whatever device there is

MFU = 6 N T / (seconds x peak FLOP/s): N counts the weights of the layers' matrices (no embedding: a lookup multiplies
nothing), T real tokens only (there is no padding), and 6 is one forward and one backward pass. A replayed chunk costs
8 N in truth (HFU); attention's own products are left out, so long texts look worse than they are. The peak is the
card's dense bf16 figure (--peak-tflops). Prints tokens/s for graphs kept and replayed, and the largest batch that fits.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import print_result, synchronise  # noqa: E402

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 32_768,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--queries", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--mean-length", type=int, default=256)
    parser.add_argument("--tokens-per-chunk", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.smoke:
        print("no CUDA device: utilisation of a GPU cannot be measured here (--smoke runs the script itself)")
        print_result("mfu", None, skipped="no CUDA device")
        return
    if arguments.smoke:
        arguments.layers, arguments.queries, arguments.steps, arguments.mean_length = 2, [8], 1, 16
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as work:
        model = make_model(Path(work), arguments)
        rows = []
        for queries in arguments.queries:
            for kept in (False, True):
                try:
                    rows.append(measure(model, queries, kept, device, arguments))
                except torch.cuda.OutOfMemoryError:
                    print(f"{queries:>7,} queries, graphs {'kept' if kept else 'replayed'}: out of memory")
                    torch.cuda.empty_cache()
    best = max((row["mfu"] for row in rows), default=None)
    print_result("mfu", best, rows=rows, device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu")


def make_model(work: Path, arguments: argparse.Namespace) -> Path:
    from transformers import Qwen3Config, Qwen3Model

    shape = dict(SHAPE)
    if arguments.smoke:
        shape |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
        shape |= {"head_dim": 16, "vocab_size": 512}
    model = Qwen3Model(Qwen3Config(**shape, num_hidden_layers=arguments.layers))
    model.save_pretrained(work)
    return work


def measure(
    model: Path, queries: int, kept: bool, device: torch.device, arguments: argparse.Namespace
) -> dict[str, float]:
    from qwen3emb_train.data.batches import EmbeddingBatch, PackedTokens
    from qwen3emb_train.losses.infonce import InfoNCE
    from qwen3emb_train.models.loading import ModelConfig, load_encoder
    from qwen3emb_train.models.precision import Precision, resolve_precision
    from qwen3emb_train.training.engines.engine import SingleEngine
    from qwen3emb_train.training.objectives import EmbeddingObjective

    encoder = load_encoder(ModelConfig(path=str(model))).to(device)
    weights = sum(p.numel() for name, p in encoder.named_parameters() if p.ndim == 2 and "embed" not in name)
    engine = SingleEngine(
        encoder, torch.optim.AdamW(encoder.parameters(), fused=True), resolve_precision(Precision.auto, device), device
    )
    generator = torch.Generator().manual_seed(0)
    mean = float(arguments.mean_length)
    drawn = torch.empty(2 * queries).log_normal_(torch.tensor(mean).log().item() - 0.18, 0.6, generator=generator)
    lengths = drawn.long().clamp(4, 4 * arguments.mean_length)
    ids = torch.randint(1, int(encoder.config.vocab_size), (int(lengths.sum()),), generator=generator)
    numbers = torch.arange(queries)
    batch = EmbeddingBatch(
        texts=PackedTokens.gather(ids, lengths.cumsum(0) - lengths, lengths),
        query_idx=numbers, positive_idx=numbers + queries, positive_query_idx=numbers,
        negative_idx=numbers[:0], negative_query_idx=numbers[:0], text_hash=torch.arange(2 * queries),
    )  # fmt: skip
    objective = EmbeddingObjective(engine, InfoNCE(), (), arguments.tokens_per_chunk, int(lengths.sum()) if kept else 0)

    def step() -> None:
        objective.forward_backward(batch)
        engine.finish_backward(1.0)
        engine.update(1e-6)

    step()
    synchronise()
    started = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    synchronise()
    seconds = (time.perf_counter() - started) / arguments.steps
    tokens = int(lengths.sum())
    mfu = 6 * weights * tokens / seconds / (arguments.peak_tflops * 1e12)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    print(
        f"{queries:>7,} queries, {tokens:>10,} tokens, graphs {'kept' if kept else 'replayed':<9}"
        f"{tokens / seconds:12,.0f} tokens/s   MFU {mfu:6.1%}   peak {memory:.1f} GB",
        flush=True,
    )
    return {
        "queries": queries, "kept": kept, "tokens_per_second": round(tokens / seconds), "mfu": round(mfu, 4),
        "peak_gb": round(memory, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()
