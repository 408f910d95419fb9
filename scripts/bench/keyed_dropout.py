"""Dropout keyed by text: 32-bit lines beside 64-bit mixing of every component, and torch's own dropout.

    python scripts/bench/keyed_dropout.py                                # CPU
    python scripts/bench/keyed_dropout.py --tokens 16384 --device cuda

One adapter's dropout, forward and backward pass. Both keyed forms give a text the same mask wherever it is encoded;
torch's does not, and is the lower bound. "mixing" is what stood here before: splitmix64's finalizer for each component.
"lines, made" is what a chunk pays once, for all adapters.

``headline``: seconds of mixing over seconds of lines (above 1: lines are faster).
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.bench.rounds import interleaved, print_result, print_table  # noqa: E402

_STEP = -7046029254386353131


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--modules", type=int, default=196, help="adapters of the model: Qwen3-0.6B has 28 x 7")
    parser.add_argument("--probability", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="adapters run in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cpu-seconds", action="store_true", help="on a CPU that others use too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    from qwen3emb_train.data.batches import PackedTokens
    from qwen3emb_train.models.dropout import TextDropout, TextKeys, mix

    device, probability = torch.device(arguments.device), arguments.probability
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30_000, (arguments.tokens // 128, 128), generator=generator)
    tokens = PackedTokens.from_lists(ids.tolist()).to(device)
    shared = TextKeys()
    modules = [TextDropout(probability, shared) for _ in range(arguments.modules)]
    keys = mix(tokens.input_ids + tokens.position_ids)
    states = torch.randn(1, tokens.num_tokens, arguments.dim, device=device).bfloat16().requires_grad_()

    def mixing(inputs: torch.Tensor) -> torch.Tensor:
        channels = torch.arange(1, arguments.dim + 1, device=device) * _STEP
        drawn = mix(keys[:, None] + channels)
        return inputs * (((drawn >> 33) & 0x7FFFFFFF) >= int(probability * 2**31)) / (1 - probability)

    def repeated(dropout: Callable[[int, torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for number in range(arguments.repeats):
                dropout(number, states).backward(states.detach())
                states.grad = None

        return run

    shared.set_tokens(tokens)
    steps = {
        "mixing": repeated(lambda _, inputs: mixing(inputs)),
        "lines": repeated(lambda number, inputs: modules[number % len(modules)](inputs)),
        "lines, made": lambda: shared.set_tokens(tokens),
        "torch": repeated(lambda _, inputs: torch.nn.functional.dropout(inputs, probability, training=True)),
    }
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    seconds = interleaved(steps, arguments.rounds, clock=clock)
    print(f"{arguments.repeats} adapters of {tokens.num_tokens} tokens x {arguments.dim}, bf16 on {device}:")
    ratios = print_table(seconds, seconds["mixing"], arguments.repeats * tokens.num_tokens, "tokens")
    print_result("keyed_dropout", ratios["lines"], ratios=ratios, device=str(device))


if __name__ == "__main__":
    main()
