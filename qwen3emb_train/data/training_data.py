"""The data of a training run as one object: token stores, batch plan, collator, fingerprint."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from qwen3emb_train.data.batch_plan import BatchPlan, Step
from qwen3emb_train.data.batches import EmbeddingBatch, RerankingBatch
from qwen3emb_train.data.collators import EmbeddingCollator
from qwen3emb_train.data.instructions import Template
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, SourceConfig
from qwen3emb_train.data.readers import ReadingConfig
from qwen3emb_train.data.reranker_tokens import RerankerTokenizer
from qwen3emb_train.data.reranking_collator import FalseNegativeFilter, RerankingCollator
from qwen3emb_train.data.rows import source_path
from qwen3emb_train.data.sampling import Frame
from qwen3emb_train.data.token_store import TokenStore, open_token_store
from qwen3emb_train.data.tokenization import TextTokenizer
from qwen3emb_train.lineage import value_digest

PLAN_VERSION = 1  # incremented when the same settings give other batches
Batch = TypeVar("Batch", EmbeddingBatch, RerankingBatch)


@dataclass(frozen=True, eq=False)
class TrainingData(Generic[Batch]):
    """The batches of a run.

    Attributes:
        plan: which rows make up each step.
        stores: the token store of each source, in the order of the configuration.
        components: everything that determines the batches, as JSON values; saved to report later what has changed
            (``plan_difference``).
        collator: from the plan's rows to batches.
    """

    plan: BatchPlan
    stores: dict[str, TokenStore]
    components: dict[str, Any]
    collator: Callable[[int, Step, tuple[int, ...]], Batch]

    @property
    def steps(self) -> int:
        """As given, or as many as ``mixture.epochs`` passes take."""
        return self.plan.steps

    @property
    def fingerprint(self) -> str:
        """Digest of ``components``. Contents count, paths do not."""
        return value_digest(self.components)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """This rank's part of a step: a pure function of (fingerprint, step, rank, world_size).

        Args:
            step: 0-based.
            rank, world_size: of this process, and the number of ranks.

        Raises:
            ValueError: the ranks do not divide the batch.
        """
        return self.collator(step, self.plan.local(step, rank, world_size), self.plan.members_of(step))

    def repeated_share(self, step: int) -> float:
        """Share of the global batch's rows that repeat a text because they could not be placed elsewhere."""
        planned = self.plan.step(step)
        return planned.num_repeated / len(planned.rows)

    def describe(self) -> list[str]:
        """Lines for the log: rows and tokens of each source, steps and epochs of each stream."""
        lines = [
            f"data.{name}: {store.num_rows:,} rows, {len(store.ids):,} tokens" for name, store in self.stores.items()
        ]
        for number, stream in enumerate(self.plan.streams):
            steps = self.plan.steps_of(number)
            passes = steps / stream.batches_per_epoch
            lines.append(
                f"{stream.name} ({stream.task}): {steps:,} steps ({steps / self.steps:.1%}) of {stream.batch_size:,} "
                f"queries, {passes:.2f} passes over {stream.num_rows:,} rows"
            )
        return lines


@dataclass(frozen=True)
class DataSettings:
    """Which rows, in which order, and where their tokens are kept.

    Attributes:
        sources: by name.
        mixture: how they share the steps.
        batch_size: queries of a step over all ranks, for sources without a batch size of their own.
        steps: None exactly when ``mixture.epochs`` is given.
        seed: of the order and the draws.
        cache_dir: token stores.
        reading: what happens to bad lines.
        verify_contents: see ``open_token_store``.
        held_out: whether this is validation data, for messages.
    """

    sources: Mapping[str, SourceConfig]
    mixture: MixtureConfig
    batch_size: int
    steps: int | None
    seed: int
    cache_dir: Path
    reading: ReadingConfig | None = None
    verify_contents: bool = False
    held_out: bool = False

    def open_stores(
        self, tokenizer: TextTokenizer | RerankerTokenizer, template: Template = Template.embedding
    ) -> dict[str, TokenStore]:
        """Tokenises the sources that were not tokenised before."""
        return {
            name: open_token_store(
                source_path(source.path), tokenizer, self.cache_dir, template=template, task=source.task,
                instruction=source.instruction, reading=self.reading, columns=source.columns,
                verify_contents=self.verify_contents,
            )
            for name, source in self.sources.items()
        }  # fmt: skip

    def plan(self, stores: Mapping[str, TokenStore], lengths: LengthConfig) -> BatchPlan:
        return BatchPlan(
            self.sources, stores, self.mixture, lengths, batch_size=self.batch_size, steps=self.steps, seed=self.seed,
            held_out=self.held_out,
        )  # fmt: skip


def open_training_data(
    settings: DataSettings, tokenizer: TextTokenizer, lengths: LengthConfig
) -> TrainingData[EmbeddingBatch]:
    """Tokenises what was not tokenised before, and plans all steps.

    Args:
        settings: sources, mixture, batch size, steps and seed.
        tokenizer: of the model.
        lengths: truncation, in tokens.

    Raises:
        FileNotFoundError, ValueError: from reading (``data.readers``) or planning (``BatchPlan``).
    """
    for limit in (lengths.max_query_tokens, lengths.max_document_tokens):
        tokenizer.max_text_tokens(limit)  # refuses too low a limit
    stores = settings.open_stores(tokenizer)
    plan, components = settings.plan(stores, lengths), _components(settings, stores, lengths)
    collator = EmbeddingCollator(
        settings.sources, stores, lengths, eos_token_id=tokenizer.eos_token_id, bos_ids=tokenizer.bos_ids,
        seed=settings.seed,
    )  # fmt: skip
    return TrainingData(plan, stores, components, collator)


def open_reranking_data(
    settings: DataSettings,
    tokenizer: RerankerTokenizer,
    false_negatives: FalseNegativeFilter,
    *,
    max_tokens: int,
    max_positives: int,
    max_negatives: int,
) -> TrainingData[RerankingBatch]:
    """As ``open_training_data``, for a reranker: lines of either example format.

    Args:
        settings: sources, mixture, batch size, steps and seed.
        tokenizer: of the model.
        false_negatives: which negatives are left out as doubtful, where rows have scores.
        max_tokens: of a prompt, template included.
        max_positives, max_negatives: documents of a query in a step, for sources that do not say otherwise.

    Raises:
        FileNotFoundError, ValueError: as there; ``max_tokens`` leaves no room for a document.
    """
    tokenizer.max_body_tokens(max_tokens)
    limited = {
        name: replace(
            source,
            max_positives=max_positives if source.max_positives is None else source.max_positives,
            max_negatives=max_negatives if source.max_negatives is None else source.max_negatives,
        )
        for name, source in settings.sources.items()
    }
    settings, lengths = replace(settings, sources=limited), LengthConfig(max_tokens, max_tokens)
    stores = settings.open_stores(tokenizer, Template.reranking)
    plan, components = settings.plan(stores, lengths), _components(settings, stores, lengths)
    components |= {"false_negatives": asdict(false_negatives), "frame": [tokenizer.prefix_ids, tokenizer.suffix_ids]}
    frame = Frame(tuple(tokenizer.prefix_ids), tuple(tokenizer.suffix_ids))
    collator = RerankingCollator(limited, stores, frame, false_negatives, max_tokens=max_tokens, seed=settings.seed)
    return TrainingData(plan, stores, components, collator)


def _components(settings: DataSettings, stores: Mapping[str, TokenStore], lengths: LengthConfig) -> dict[str, Any]:
    """A longer run starts the same way, so neither steps nor the number of epochs is part of it."""
    described = {}
    for name, source in settings.sources.items():
        own = {key: value for key, value in asdict(source).items() if key not in ("path", "instruction", "columns")}
        store = stores[name]
        described[name] = own | {
            "no_repeats": source.unrepeated().value,
            "rows": store.num_rows, "contents": store.contents, "tokens": store.key,
        }  # fmt: skip
    shares = asdict(settings.mixture) | {"epochs": settings.mixture.epochs is not None}
    return {
        "plan_version": PLAN_VERSION, "seed": settings.seed, "batch_size": settings.batch_size,
        "mixture": shares, "lengths": asdict(lengths), "data": described,
    }  # fmt: skip


def plan_difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describes the differences between the ``components`` of two runs; "" when there are none."""
    found = []
    old_sources, new_sources = saved.get("data", {}), now.get("data", {})
    for name in sorted(old_sources.keys() | new_sources.keys()):
        if name not in new_sources:
            found.append(f"data.{name} is gone")
        elif name not in old_sources:
            found.append(f"data.{name} is new")
        else:
            found += _source_difference(name, old_sources[name], new_sources[name])
    found += _changes(
        "", {k: v for k, v in saved.items() if k != "data"}, {k: v for k, v in now.items() if k != "data"}
    )
    return "; ".join(found)


def _source_difference(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    if old["contents"] != new["contents"]:
        found.append(f"the contents of data.{name} changed ({old['rows']:,} -> {new['rows']:,} rows)")
    elif old["tokens"] != new["tokens"] and old["task"] == new["task"]:  # the task is part of the key, too
        found.append(f"data.{name} is tokenised otherwise (tokenizer, instruction, query template or reading)")
    told = ("contents", "tokens", "rows")
    return found + _changes(
        f"data.{name}.",
        {k: v for k, v in old.items() if k not in told},
        {k: v for k, v in new.items() if k not in told},
    )


def _changes(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _changes(f"{prefix}{key}.", before, after)
        elif before != after:
            found.append(f"{prefix}{key} {before} -> {after}")
    return found
