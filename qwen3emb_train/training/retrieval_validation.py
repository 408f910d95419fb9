"""nDCG and recall on retrieval sets during training, with the training engine's own model.

Each rank encodes its share of a set and searches its own documents, on the engine's device; the best of all ranks'
finds are merged exactly, and every rank gets the metrics. They are
``evaluate``'s on the checkpoint of that step, as far as texts are no longer than training's limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from qwen3emb_train.data.batches import PackedTokens, chunk_by_tokens
from qwen3emb_train.data.instructions import DEFAULT_INSTRUCTION, query_prompt, refuse_template
from qwen3emb_train.data.mixture import LengthConfig
from qwen3emb_train.data.prefixes import share_prefixes
from qwen3emb_train.data.ranking_metrics import ndcg_at, recall_at
from qwen3emb_train.data.retrieval_set import RetrievalSet, load_retrieval_set
from qwen3emb_train.data.tokenization import TextTokenizer, text_hash
from qwen3emb_train.distributed import (
    all_gather_rows,
    any_rank,
    gather_counts,
    is_main_process,
    rank,
    world_size,
)
from qwen3emb_train.index.candidates import DECIMALS
from qwen3emb_train.index.nearest import candidate_scores, own_last, top_k_documents
from qwen3emb_train.index.vector_rows import TensorRows
from qwen3emb_train.models.text_model import truncate_and_normalize
from qwen3emb_train.training.engines.engine import Engine
from qwen3emb_train.training.signals import StopSignal

NDCG_AT, RECALL_AT = 10, 100
NDCG, RECALL = f"ndcg@{NDCG_AT}", f"recall@{RECALL_AT}"


@dataclass
class ValidationSetConfig:
    """A retrieval set that is evaluated during training.

    Attributes:
        path: directory in the BEIR layout.
        split: judgements in qrels/SPLIT.tsv.
        instruction: what stands before each query; null = what stands before most of the training rows, "" = nothing.
        max_documents: search only so many: all that are judged, and some of the others, always the same ones. null =
            all. Metrics are higher than the whole set's, but rise and fall alike.
    """

    path: str = "???"
    split: str = "test"
    instruction: str | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        refuse_template("eval_sets.*.instruction", self.instruction)
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}; use at least 1, or null for the whole corpus.")


@dataclass(frozen=True, eq=False)
class Share:
    """This rank's texts, tokenised once.

    Attributes:
        tokens: None where the rank has none.
        rows: where each of them stands among all ranks' texts.
        total: of all ranks' texts.
        eos: a text of the EOS token only, encoded while other ranks have more chunks.
    """

    tokens: PackedTokens | None
    rows: Int[Tensor, " texts"]
    total: int
    eos: PackedTokens

    @staticmethod
    def of(texts: list[str], tokenizer: TextTokenizer, max_tokens: int) -> "Share":
        """Tokenises this rank's part of the texts.

        Args:
            texts: of all ranks.
            tokenizer: of the model.
            max_tokens: longest text; longer ones are truncated.
        """
        # Dealt by length, so that the ranks have about equally much to do.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))[rank() :: world_size()]
        tokens = tokenizer.tokenize([texts[row] for row in order], max_tokens)
        return Share(
            PackedTokens.from_lists(tokens) if tokens else None,
            torch.tensor(order, dtype=torch.long),
            len(texts),
            PackedTokens.from_lists([[tokenizer.eos_token_id]]),
        )

    def chunks(self, tokens_per_chunk: int) -> list[Tensor]:
        return [] if self.tokens is None else chunk_by_tokens(self.tokens.lengths, tokens_per_chunk)


@dataclass(frozen=True, eq=False)
class ValidationSet:
    """A set as training needs it.

    Attributes:
        name: for messages.
        judged: of each query: document row -> grade.
        own: of each query: the row of the document that it is; -1: none.
    """

    name: str
    queries: Share
    documents: Share
    judged: list[dict[int, int]]
    own: list[int]


def open_validation_set(
    name: str,
    config: ValidationSetConfig,
    tokenizer: TextTokenizer,
    lengths: LengthConfig,
    own_prompt: str = query_prompt(DEFAULT_INSTRUCTION),
) -> ValidationSet:
    """Reads the set and tokenises this rank's share of it.

    Args:
        name: for messages.
        config: where the set is.
        tokenizer: of the model.
        lengths: longest texts in tokens.
        own_prompt: the prompt before a query where the set names no instruction.

    Raises:
        FileNotFoundError, ValueError: see ``load_retrieval_set``.
    """
    data = load_retrieval_set(Path(config.path), config.split)
    kept = chosen_documents(data, config.max_documents)
    new_of = {row: new for new, row in enumerate(kept)}
    row_of = {data.document_ids[row]: new for row, new in new_of.items()}
    given = config.instruction
    prompt = own_prompt if given is None else query_prompt(given) if given else ""
    queries = [prompt + query for query in data.queries]
    return ValidationSet(
        name,
        Share.of(queries, tokenizer, lengths.max_query_tokens),
        Share.of([data.documents[row] for row in kept], tokenizer, lengths.max_document_tokens),
        [_by_row(data.relevance[query], row_of) for query in data.query_ids],
        [new_of.get(row, -1) for row in data.own_rows],
    )


def _by_row(judged: Mapping[str, int], row_of: Mapping[str, int]) -> dict[int, int]:
    """Grades by row; documents that the corpus lacks count too, under rows that no search finds."""
    return {row_of.get(document, -1 - place): grade for place, (document, grade) in enumerate(judged.items())}


def chosen_documents(data: RetrievalSet, max_documents: int | None) -> list[int]:
    """Rows, ascending: every judged document, and of the others those whose ids come first by hash."""
    rows = range(len(data.document_ids))
    if max_documents is None or max_documents >= len(rows):
        return list(rows)
    judged = {document for grades in data.relevance.values() for document in grades}
    others = sorted(
        (row for row in rows if data.document_ids[row] not in judged),
        key=lambda row: text_hash(data.document_ids[row]),
    )
    kept = [row for row in rows if data.document_ids[row] in judged]
    return sorted([*kept, *others[: max(0, max_documents - len(kept))]])


@torch.no_grad()
def retrieval_metrics(
    data: ValidationSet, engine: Engine, tokens_per_chunk: int, stop: StopSignal
) -> dict[str, float] | None:
    """nDCG and recall of the engine's model as it is; None when a signal came to any rank meanwhile.

    Collective; the same result on every rank. The caller has put the model into eval mode.

    Args:
        data: the set.
        engine: of the training run.
        tokens_per_chunk: tokens encoded at once.
        stop: checked before each chunk.

    Raises:
        ValueError: a vector is not finite; on every rank.
    """
    vectors = []
    for share in (data.queries, data.documents):
        encoded = _encode(share, engine, tokens_per_chunk, stop)
        if encoded is None:
            return None
        if any_rank(not bool(torch.isfinite(encoded).all()), engine.device):
            raise ValueError(f"eval_sets.{data.name}: the model gives vectors with NaN or infinity.")
        vectors.append(truncate_and_normalize(encoded))
    queries = vectors[0].new_empty(data.queries.total, vectors[0].shape[1])
    everywhere = torch.cat(all_gather_rows(data.queries.rows.to(engine.device))).cpu()
    queries[everywhere] = torch.cat(all_gather_rows(vectors[0].to(engine.device))).cpu()
    found = own_last(_search(queries, vectors[1], data.documents, engine.device), data.own)[
        :, : max(NDCG_AT, RECALL_AT)
    ]
    metrics = torch.zeros(2, dtype=torch.float32 if engine.device.type == "mps" else torch.float64)
    if is_main_process():  # its sums are everybody's, to the bit
        metrics = metrics + metrics.new_tensor(_means(data.judged, found.tolist()))
    metrics = metrics.to(engine.device)
    if world_size() > 1:
        dist.broadcast(metrics, 0)
    ndcg, recall = metrics.tolist()
    return {NDCG: ndcg, RECALL: recall}


def _encode(share: Share, engine: Engine, tokens_per_chunk: int, stop: StopSignal) -> Float[Tensor, "texts dim"] | None:
    """The vectors of this rank's texts, on the CPU; None: a signal came."""
    chunks = share.chunks(tokens_per_chunk)
    vectors: Tensor | None = None
    # Passes are collectives where weights are sharded: all ranks do equally many.
    for number in range(max(gather_counts(len(chunks), engine.device))):
        if stop.on_any_rank(engine.device):
            return None
        own = chunks[number] if number < len(chunks) else share.rows.new_empty(0)
        output = engine.forward(_tokens(share, own, engine)).float()[: len(own)].cpu()
        if vectors is None:
            vectors = output.new_zeros(len(share.rows), output.shape[1])
        vectors[own] = output
    assert vectors is not None, "a set has queries and documents"
    return vectors


def _search(
    queries: Float[Tensor, "queries dim"], own: Float[Tensor, "own dim"], documents: Share, device: torch.device
) -> Int[Tensor, "queries kept"]:
    """The best documents of every query among all ranks', best first; the search of one process, to the row.

    Each rank's best are scored in float64 as the search does it, so equal scores meet in the same order as there.

    Args:
        queries: all ranks' unit vectors, on the CPU.
        own: unit vectors of this rank's documents, on the CPU.
        documents: where they stand among all ranks'.
        device: that multiplies, and gathers.
    """
    order = documents.rows.argsort()
    kept = min(max(NDCG_AT, RECALL_AT) + 1, documents.total)  # one more: a query's own document is left out
    scores = torch.full((len(queries), kept), -torch.inf, dtype=torch.float64)
    rows = torch.full((len(queries), kept), documents.total)
    if len(own):
        _, local = top_k_documents(queries, own[order], kept, device=device)
        scores[:, : local.shape[1]] = candidate_scores(queries.double(), TensorRows(own[order].double()), local)
        rows[:, : local.shape[1]] = documents.rows[order][local]
    # As [kept, queries]: gathered end to end, all ranks' finds of a query are a column.
    scores, rows = (_all_finds(finds.T.contiguous(), device).T for finds in (scores, rows))
    rows, by_row = rows.sort(dim=1)
    best = scores.gather(1, by_row).round(decimals=DECIMALS).sort(dim=1, descending=True, stable=True).indices
    return rows.gather(1, best[:, :kept])


def _all_finds(finds: Tensor, device: torch.device) -> Tensor:
    if world_size() == 1:
        return finds
    bits = finds.view(torch.int64)  # also where a device has no float64
    return torch.cat(all_gather_rows(bits.to(device))).cpu().view(finds.dtype)


def _tokens(share: Share, own: Int[Tensor, " chosen"], engine: Engine) -> PackedTokens:
    tokens = share.eos if share.tokens is None or not len(own) else share.tokens.select(own)
    if engine.model.shares_prefixes:
        tokens = share_prefixes(tokens)
    return tokens.to(engine.device)


def _means(judged: Sequence[Mapping[int, int]], found: list[list[int]]) -> tuple[float, float]:
    ndcg = recall = 0.0
    for grades, rows in zip(judged, found, strict=True):
        ranked = [grades.get(row, 0) for row in rows]
        ndcg += ndcg_at(NDCG_AT, ranked, grades.values())
        recall += recall_at(RECALL_AT, ranked, grades.values())
    return ndcg / len(judged), recall / len(judged)
