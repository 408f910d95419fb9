"""Encoding for search: ours beside ``SentenceTransformer.encode``, same weights, texts and precision.

    QWEN3EMB_DATA=DIR python scripts/bench/encode.py                      # CPU, 6 layers of SmolLM2-135M
    python scripts/bench/encode.py --model Qwen/Qwen3-Embedding-0.6B --layers 28 --device cuda --texts 20000

From strings to normalised vectors, tokenisation included on both sides. The peer sorts by length too and runs with its
default batch of 32 and with 128; each round counts its faster one. Vectors are compared first. Kinds of text: medquad's
passages, its questions with their instruction (a beginning that all share), code_py's functions.
"""

import argparse
import sys
import tempfile
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
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.texts, arguments.rounds, arguments.layers = 40, 1, 2
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        base = same_weights_twice(Path(work), arguments.model, arguments.layers, arguments.smoke)
        ratios = {kind: compare(base, kind, arguments) for kind in arguments.kinds}
    print_result("encode", min(ratios.values()), ratios=ratios, device=arguments.device, precision=arguments.precision)


def compare(base: Path, kind: str, arguments: argparse.Namespace) -> float:
    from sentence_transformers import SentenceTransformer

    from qwen3emb_train.models.inference import TextEncoder

    texts = texts_of(kind, arguments)
    peer = SentenceTransformer(str(base / "export"), device=arguments.device)
    peer.max_seq_length = 512
    ours = TextEncoder.load(str(base / "model"), max_tokens=512, precision=arguments.precision, device=arguments.device)

    def encode_peer(batch_size: int) -> torch.Tensor:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            return torch.as_tensor(peer.encode(texts, batch_size=batch_size, show_progress_bar=False)).float()

    steps = {
        "st batch 32": lambda: encode_peer(32),
        "st batch 128": lambda: encode_peer(128),
        "ours": lambda: ours.encode(texts),
    }
    least = float(torch.nn.functional.cosine_similarity(steps["ours"](), steps["st batch 32"]()).min())
    if least < (0.9999 if arguments.precision == "fp32" else 0.98):
        sys.exit(f"{kind}: the vectors differ (least cosine {least:.5f}): not comparable")
    seconds = interleaved(steps, arguments.rounds)
    best = [min(pair) for pair in zip(seconds["st batch 32"], seconds["st batch 128"], strict=True)]
    print(f"\n{kind}: {len(texts)} texts, least cosine {least:.6f}")
    return print_table(seconds, best, len(texts), "texts")["ours"]


def texts_of(kind: str, arguments: argparse.Namespace) -> list[str]:
    pairs = training_pairs("code_py" if kind == "code" else "medquad", arguments.texts, made_up=arguments.smoke)
    if kind == "queries":
        return [f"Instruct: {INSTRUCTION}\nQuery:{query}" for query, _ in pairs]
    return [positive for _, positive in pairs]


if __name__ == "__main__":
    main()
