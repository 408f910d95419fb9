"""Peak host memory of each rank while a sharded engine loads a model, beyond the imports, over its share of weights.

python scripts/bench/load_memory.py --ranks 2 4 [--engines fsdp2 hsdp] [--megabytes 1200]

A random float32 Qwen3 with untied rows is written once. Each rank runs in a process of its own on gloo; its high-water
mark (VmHWM) is reset after the imports. The bound is the share and 20 %.
"""

import argparse
import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ENVIRONMENTS = {
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "hsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"},
}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--engines", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--megabytes", type=int, default=1200)
    parser.add_argument("--whole", action="store_true", help="load the whole model on every rank, for comparison")
    arguments = parser.parse_args()
    print("| engine | ranks | weights MiB | share MiB | peak MiB, each rank | worst peak / share |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        mp.spawn(_write_model, (work, arguments.megabytes), nprocs=1)
        for engine in arguments.engines:
            for ranks in arguments.ranks:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = probe.getsockname()[1]
                mp.spawn(_measure, (ranks, port, engine, work, arguments.whole), nprocs=ranks)


def _write_model(_: int, directory: str, megabytes: int) -> None:
    from transformers import Qwen3Config, Qwen3Model

    layers = max(1, (megabytes * MIB // 4 - 20_000 * 1024) // 15_730_000)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=20_000, hidden_size=1024, intermediate_size=3072, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(directory, max_shard_size="400MB")


def _measure(rank: int, num_ranks: int, port: int, engine: str, path: str, whole: bool) -> None:
    os.environ |= ENVIRONMENTS[engine] | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    import accelerate  # noqa: F401
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    from torch.distributed import tensor  # noqa: F401

    from qwen3emb_train.models.loading import ModelConfig, load_encoder
    from qwen3emb_train.models.precision import Precision
    from qwen3emb_train.training.engines import fsdp2  # noqa: F401
    from qwen3emb_train.training.engines.launch import build_engine, start
    from qwen3emb_train.training.optimization import OptimizerConfig

    launch = start("cpu")
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_mark()
    encoder = load_encoder(ModelConfig(path=path), unread=not whole)
    built = build_engine(launch, encoder, OptimizerConfig(), Precision.fp32, max_grad_norm=1.0)
    peak = _high_water_mark() - before
    total = sum(parameter.numel() * 4 for parameter in built.model.parameters()) / MIB
    share = sum(part.numel() * 4 for _, part, _ in built.weight_parts()) / MIB
    peaks: list[float] = [0.0] * num_ranks
    dist.all_gather_object(peaks, peak)
    if rank == 0:
        each = ", ".join(f"{one:.0f}" for one in peaks)
        how = f"{engine}, whole" if whole else engine
        print(f"| {how} | {num_ranks} | {total:.0f} | {share:.0f} | {each} | {max(peaks) / share:.2f} |", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _high_water_mark() -> float:
    """MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
