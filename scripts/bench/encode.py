"""Encoding throughput: ours against ``SentenceTransformer.encode``, same weights and texts, in each precision.

    QWEN3EMB_DATA=DIR python scripts/bench/encode.py                      # CPU, 6 layers of SmolLM2-135M
    python scripts/bench/encode.py --model Qwen/Qwen3-Embedding-0.6B --layers 28 --device cuda --texts 20000

From strings to normalised vectors, including tokenisation on both sides. The peer has its fastest settings: it sorts by
length, its weights are bfloat16 if the products are, and the fastest of several batch sizes, tried once, is used in the
rounds. Vectors are compared first. Kinds of text: medquad's passages, its questions with their instruction (a shared
prefix), code_py's functions.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import (  # noqa: E402
    interleaved,
    print_result,
    print_table,
    same_weights_twice,
    training_pairs,
)

KINDS = ("passages", "queries", "code")
INSTRUCTION = "Given a medical question, retrieve the passage that answers it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128], help="of the peer")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-seconds", action="store_true", help="the process's own, for a machine that is in use")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.texts, arguments.rounds, arguments.layers, arguments.batch_sizes = 40, 1, 2, [8, 32]
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        base = same_weights_twice(Path(work), arguments.model, arguments.layers, arguments.smoke)
        ratios = {
            f"{kind} {precision}": compare(base, kind, precision, arguments)
            for kind in arguments.kinds
            for precision in arguments.precisions
        }
    print_result("encode", min(ratios.values()), headline_is="least ratio", ratios=ratios, device=arguments.device)


def compare(base: Path, kind: str, precision: str, arguments: argparse.Namespace) -> float:
    from sentence_transformers import SentenceTransformer

    from qwen3emb_train.index.inference import TextEncoder

    texts = texts_of(kind, arguments)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    peer = SentenceTransformer(str(base / "export"), device=arguments.device, model_kwargs={"dtype": dtype})
    peer.max_seq_length = 512
    ours = TextEncoder.load(str(base / "model"), max_tokens=512, precision=precision, device=arguments.device)

    def encode_peer(batch_size: int) -> torch.Tensor:
        found = peer.encode(texts, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
        return torch.as_tensor(found).float().cpu()

    least = float(torch.nn.functional.cosine_similarity(ours.encode(texts), encode_peer(32)).min())
    if least < (0.9999 if precision == "fp32" else 0.98):
        sys.exit(f"{kind}: the vectors differ (least cosine {least:.5f}): not comparable")
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    sizes = {str(size): partial(encode_peer, size) for size in arguments.batch_sizes}
    tried = interleaved(sizes, 1, warm_up=0, clock=clock)
    best = min(arguments.batch_sizes, key=lambda size: tried[str(size)][0])
    steps = {f"st batch {best}": lambda: encode_peer(best), "ours": lambda: ours.encode(texts)}
    seconds = interleaved(steps, arguments.rounds, warm_up=0, clock=clock)
    tokens = sum(map(len, ours.tokenizer.tokenize(texts, 512)))
    print(f"\n{kind}, {precision}: {len(texts)} texts, {tokens:,} tokens, least cosine {least:.6f}")
    return print_table(seconds, seconds[f"st batch {best}"], tokens, "tokens")["ours"]


def texts_of(kind: str, arguments: argparse.Namespace) -> list[str]:
    pairs = training_pairs("code_py" if kind == "code" else "medquad", arguments.texts, made_up=arguments.smoke)
    if kind == "queries":
        return [f"Instruct: {INSTRUCTION}\nQuery:{query}" for query, _ in pairs]
    return [positive for _, positive in pairs]


if __name__ == "__main__":
    main()
