"""Slerp of two Qwen3-0.6B-shaped models (random bfloat16 weights): ours against mergekit, wall time and peak memory.

    python scripts/bench/merging.py                      # the full shape, 5 rounds; 5 GB of disk
    python scripts/bench/merging.py --layers 2 --rounds 3

The rounds are interleaved, and each merge runs in its own process, which times the merge (without imports) and reads
its peak resident memory. Both write bfloat16. Ours also digests its inputs and syncs its output to disk, as in normal
use. The last line is a JSON object with every ratio, mergekit's figure over ours.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

SHAPE = {"hidden": 1024, "intermediate": 3072, "heads": 16, "kv_heads": 8, "head_dim": 128, "vocabulary": 151_936}
TOOLS = ("ours", "mergekit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocabulary", type=int, default=SHAPE["vocabulary"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--t", type=float, default=0.4)
    parser.add_argument("--work", type=Path, help="where the models are made; default: a temporary directory")
    parser.add_argument("--run", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_merge(arguments.run, arguments.work, arguments.t)
        return
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        compare(Path(work), arguments)


def compare(work: Path, arguments: argparse.Namespace) -> None:
    for seed in (0, 1):
        make_model(work / f"model_{seed}", arguments.layers, arguments.vocabulary, seed)
    size = (work / "model_0" / "model.safetensors").stat().st_size
    print(f"two models of {size / 1e9:.2f} GB each, {arguments.layers} layers; mergekit {metadata.version('mergekit')}")
    figures: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for number in range(arguments.rounds):
        for tool in TOOLS if number % 2 == 0 else TOOLS[::-1]:
            command = [sys.executable, __file__, "--run", tool, "--work", str(work), "--t", str(arguments.t)]
            os.sync()  # flush the writes of the last run, so that this one does not wait for them
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                sys.exit(f"{tool} failed:\n{finished.stderr}")
            figures[tool].append(json.loads(finished.stdout.splitlines()[-1]))
            last = figures[tool][-1]
            print(f"round {number + 1} {tool:<9} {last['seconds']:7.2f} s  {last['peak_gb']:6.2f} GB")
    agreement = largest_difference(work)
    report(figures, arguments, agreement)


def report(figures: dict[str, list[dict[str, float]]], arguments: argparse.Namespace, agreement: float) -> None:
    print(f"\n{'':<10}{'seconds: median (min - max)':>34}{'peak GB: median (min - max)':>34}")
    for tool in TOOLS:
        cells = "".join(
            f"{statistics.median(values):>14.2f} ({min(values):.2f} - {max(values):.2f})".rjust(34)
            for values in ([run[key] for run in figures[tool]] for key in ("seconds", "peak_gb"))
        )
        print(f"{tool:<10}{cells}")
    ratios = {
        key: [theirs[name] / ours[name] for ours, theirs in zip(figures["ours"], figures["mergekit"], strict=True)]
        for key, name in (("time_ratio", "seconds"), ("memory_ratio", "peak_gb"))
    }
    result: dict[str, object] = {"benchmark": "merging", "layers": arguments.layers, "rounds": arguments.rounds}
    for key, values in ratios.items():
        result[key] = round(statistics.median(values), 3)
        result[f"{key}_spread"] = [round(min(values), 3), round(max(values), 3)]
    result["largest_weight_difference"] = agreement
    result["headline"] = result["time_ratio"]
    print(json.dumps(result))


def make_model(directory: Path, layers: int, vocabulary: int, seed: int) -> None:
    """A causal language model's directory with tied embeddings, under the names that mergekit knows."""
    import torch

    from qwen3emb_train.models.weights import TensorSpec, write_weights
    from tests.tiny import make_tiny_tokenizer

    directory.mkdir(parents=True)
    make_tiny_tokenizer(directory)
    hidden, head_dim = SHAPE["hidden"], SHAPE["head_dim"]
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": SHAPE["intermediate"], "num_hidden_layers": layers,
        "num_attention_heads": SHAPE["heads"], "num_key_value_heads": SHAPE["kv_heads"], "head_dim": head_dim,
        "vocab_size": vocabulary, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    queries, keys = SHAPE["heads"] * head_dim, SHAPE["kv_heads"] * head_dim
    block = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,),
        "mlp.gate_proj": (SHAPE["intermediate"], hidden), "mlp.up_proj": (SHAPE["intermediate"], hidden),
        "mlp.down_proj": (hidden, SHAPE["intermediate"]),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}
    generator = torch.Generator().manual_seed(seed)

    def random(name: str) -> torch.Tensor:
        return torch.randn(shapes[name], generator=generator).mul_(0.02).bfloat16()

    specs = {name: TensorSpec(torch.bfloat16, shape) for name, shape in shapes.items()}
    write_weights(directory, specs, random, 5_000_000_000)


def run_merge(tool: str, work: Path, t: float) -> None:
    """In the child process: times one merge and prints a JSON line."""
    import logging
    import shutil

    logging.disable(logging.WARNING)
    models, output = [str(work / f"model_{seed}") for seed in (0, 1)], work / tool
    shutil.rmtree(output, ignore_errors=True)
    if tool == "ours":
        from transformers import AutoConfig  # noqa: F401 - mergekit imports it before its timing, too

        from qwen3emb_train.merging.config import MergeConfig
        from qwen3emb_train.merging.merge import merge_models

        start = time.perf_counter()
        merge_models(MergeConfig(models=models, t=t, output_dir=str(output)))
    else:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge as mergekit_merge
        from mergekit.options import MergeOptions

        start = time.perf_counter()
        settings = {"merge_method": "slerp", "base_model": models[0], "models": [{"model": model} for model in models]}
        configuration = MergeConfiguration.model_validate(settings | {"parameters": {"t": t}, "dtype": "bfloat16"})
        mergekit_merge(configuration, str(output), MergeOptions(quiet=True, copy_tokenizer=False))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak}))


def largest_difference(work: Path) -> float:
    """Largest difference between the two results, over all weights: both must be the same merge."""
    from safetensors import safe_open

    largest = 0.0
    files = [file for tool in TOOLS for file in (work / tool).glob("*.safetensors")]
    with safe_open(files[0], "pt") as ours, safe_open(files[1], "pt") as theirs:
        for name in ours.keys():  # noqa: SIM118 - a safetensors file, not a dict
            difference = (ours.get_tensor(name).float() - theirs.get_tensor(name).float()).abs().max()
            largest = max(largest, float(difference))
    return largest


if __name__ == "__main__":
    main()
