"""The batch plan: a pure function of (seed, data, step), the same at any number of ranks (reliability R2, R3, R12)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3emb_train.data.batch_assignment import balanced_owners
from qwen3emb_train.data.batch_plan import BatchPlan, Step
from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, NoRepeats, SourceConfig
from qwen3emb_train.data.token_store import TokenStore
from tests.data.stores import distinct_rows, make_store


def make_plan(
    stores: dict[str, TokenStore] | list[int],
    *,
    sources: dict[str, SourceConfig] | None = None,
    mixture: MixtureConfig | None = None,
    batch_size: int = 4,
    steps: int | None = 50,
    seed: int = 3,
) -> BatchPlan:
    """Of stores, or of numbers of rows, all texts distinct."""
    if isinstance(stores, list):
        stores = {f"s{i}": make_store(distinct_rows(rows, 10_000 * i + 1)) for i, rows in enumerate(stores)}
    sources = {name: SourceConfig() for name in stores} | (sources or {})
    mixture = mixture or MixtureConfig(rows_per_block=24)  # several blocks in an epoch of a few dozen rows
    return BatchPlan(sources, stores, mixture, LengthConfig(64, 64), batch_size=batch_size, steps=steps, seed=seed)


def pairs(step: Step) -> list[tuple[int, int]]:
    return list(zip(step.row_source.tolist(), step.rows.tolist(), strict=True))


def walk(plan: BatchPlan) -> dict[str, list[Step]]:
    """The steps of each stream, in order."""
    walked: dict[str, list[Step]] = {stream.name: [] for stream in plan.streams}
    for step in range(plan.steps):
        planned = plan.step(step)
        walked[planned.stream].append(planned)
    return walked


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(4, 90), min_size=1, max_size=3),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.booleans(),
)
def test_an_epoch_uses_every_row_once_but_for_less_than_a_batch(
    num_rows: list[int], seed: int, mixed_share: float, length_buckets: bool
) -> None:
    mixture = MixtureConfig(mixed_share=mixed_share, length_buckets=length_buckets, rows_per_block=24)
    plan = make_plan(num_rows, seed=seed, mixture=mixture)
    walked = walk(plan)
    for stream in plan.streams:
        steps = walked[stream.name]
        assert stream.num_rows - stream.batches_per_epoch * stream.batch_size < stream.batch_size
        for first in range(0, len(steps), stream.batches_per_epoch):
            epoch = [pair for step in steps[first : first + stream.batches_per_epoch] for pair in pairs(step)]
            assert max(Counter(epoch).values()) == 1
            assert all(0 <= row < num_rows[source] for source, row in epoch)


def test_each_epoch_leaves_another_remainder_and_has_another_order() -> None:
    plan = make_plan([27], steps=60)  # 6 batches of 4, 3 rows over
    steps = walk(plan)["s0"]
    epochs = [[row for step in steps[i : i + 6] for row in step.rows.tolist()] for i in range(0, 60, 6)]
    left_out = [frozenset(range(27)) - set(epoch) for epoch in epochs]
    assert all(len(rows) == 3 for rows in left_out)
    assert len(set(left_out)) > 7
    assert len({tuple(epoch) for epoch in epochs}) == 10


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_global_order_does_not_depend_on_the_number_of_ranks_and_all_get_equally_many_rows(world_size: int) -> None:
    sources = {"s1": SourceConfig(batch_size=16)}
    plan = make_plan([40, 53, 31], batch_size=8, sources=sources, mixture=MixtureConfig(mixed_share=0.3))
    for number in range(plan.steps):
        whole = plan.step(number)
        slices = [plan.local(number, rank, world_size) for rank in range(world_size)]
        assert {len(part.rows) for part in slices} == {len(whole.rows) // world_size}
        assert {(part.stream, part.task) for part in slices} == {(whole.stream, whole.task)}
        assert sorted(pair for part in slices for pair in pairs(part)) == sorted(pairs(whole))
        for part in slices:  # in the global order
            assert pairs(part) == [pair for pair in pairs(whole) if pair in set(pairs(part))]


def test_ranks_get_about_equally_many_tokens() -> None:
    """A step waits for its slowest rank; slices in random order left the others idle for a seventh of it."""
    lengths = np.minimum(np.exp(np.random.default_rng(0).normal(5.3, 0.6, 64 * 64)), 512).astype(np.int64) + 30
    owners = balanced_owners(lengths, 64)
    assert np.bincount(owners).tolist() == [64] * 64
    dealt, sliced = (np.bincount(which, lengths) for which in (owners, np.arange(64 * 64) // 64))
    assert dealt.max() / dealt.mean() - 1 < 0.002
    assert sliced.max() / sliced.mean() - 1 > 0.08
    assert (balanced_owners(lengths, 64) == owners).all()
    assert balanced_owners(np.array([5, 5, 5, 5]), 2).tolist() == [0, 1, 0, 1]


def test_all_rows_of_a_step_are_of_one_task_also_when_sources_are_mixed() -> None:
    sources = {f"s{i}": SourceConfig(task="sts" if i < 2 else "retrieval") for i in range(4)}
    plan = make_plan([40, 40, 40, 40], sources=sources, mixture=MixtureConfig(mixed_share=0.7))
    seen = set()
    for number in range(plan.steps):
        step = plan.step(number)
        names = {plan.source_names[source] for source in step.row_source.tolist()}
        assert {sources[name].task for name in names} == {step.task}
        assert names <= set(step.stream.split("+"))
        assert set(plan.members_of(number)) == {plan.source_names.index(name) for name in step.stream.split("+")}
        seen.add(step.stream)
    assert {"s0+s1", "s2+s3"} <= seen


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=8), st.integers(0, 9))
def test_seeking_a_step_equals_walking_to_it(steps: list[int], seed: int) -> None:
    mixture = MixtureConfig(mixed_share=0.3, rows_per_block=24)
    walked = make_plan([45, 70], steps=100, seed=seed, mixture=mixture)
    orders = [pairs(walked.step(step)) for step in range(100)]
    fresh = make_plan([45, 70], steps=100, seed=seed, mixture=mixture)
    for step in steps:
        assert pairs(fresh.step(step)) == orders[step]


def test_a_longer_run_begins_alike() -> None:
    short, long = make_plan([20, 13], steps=30), make_plan([20, 13], steps=90)
    for step in (29, 3, 17):
        assert pairs(short.step(step)) == pairs(long.step(step))


def test_seed_name_and_epoch_decide_the_order_and_the_order_of_the_sources_does_not() -> None:
    stores = {name: make_store(distinct_rows(40, 1 + 1000 * i)) for i, name in enumerate("ba")}
    backwards = dict(reversed(stores.items()))
    assert list(stores) != list(backwards)
    one, same, other = make_plan(stores), make_plan(backwards), make_plan(stores, seed=4)
    assert all(pairs(one.step(step)) == pairs(same.step(step)) for step in range(50))
    assert sum(pairs(one.step(step)) == pairs(other.step(step)) for step in range(50)) < 3
    orders = {name: [sorted(step.rows.tolist()) for step in steps] for name, steps in walk(one).items()}
    assert all(a != b for a, b in zip(orders["a"][:9], orders["b"][:9], strict=True))


def test_steps_of_a_source_are_near_its_share() -> None:
    plan = make_plan([100, 400], steps=4000)
    assert plan.steps_of(1) / plan.steps_of(0) == pytest.approx(2.0, rel=0.15)
    start = make_plan([100, 400], steps=100)
    assert len(walk(start)["s1"]) == start.steps_of(1)


def test_epochs_pass_over_every_source_exactly_so_often() -> None:
    mixture = MixtureConfig(epochs=3, rows_per_block=24)
    plan = make_plan([20, 55, 8], steps=None, mixture=mixture, sources={"s2": SourceConfig(batch_size=2)})
    assert plan.steps == 3 * (5 + 13 + 4)
    walked = walk(plan)
    for name, rows, batch in (("s0", 20, 4), ("s2", 8, 2)):  # batches fill: nothing remains
        counts = Counter(row for step in walked[name] for row in step.rows.tolist())
        assert counts == dict.fromkeys(range(rows), 3), name
        assert {len(step.rows) for step in walked[name]} == {batch}
    assert set(Counter(row for step in walked["s1"] for row in step.rows.tolist()).values()) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "sources", "named"),
    [
        ({"alpha": 1.0}, {}, "mixture.alpha=1.0"),
        ({"rows_cap": 5}, {}, "mixture.rows_cap=5"),
        ({"mixed_share": 0.5}, {}, "mixture.mixed_share=0.5"),
        ({}, {"s0": SourceConfig(weight=2.0)}, "data.s0.weight=2.0"),
    ],
)
def test_what_has_no_meaning_with_epochs_is_refused(
    changes: dict[str, float], sources: dict[str, SourceConfig], named: str
) -> None:
    with pytest.raises(ValueError, match=f"{named} has no meaning with mixture.epochs=2"):
        make_plan([20], steps=None, sources=sources, mixture=MixtureConfig(epochs=2, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("steps", "epochs"), [(None, None), (5, 5)])
def test_a_run_has_steps_or_epochs(steps: int | None, epochs: int | None) -> None:
    with pytest.raises(ValueError, match=f"steps={steps} and mixture.epochs={epochs}: give exactly one"):
        make_plan([20], steps=steps, mixture=MixtureConfig(epochs=epochs))


def test_max_rows_is_a_subset_that_stays_the_same_in_every_epoch() -> None:
    sources = {"s0": SourceConfig(max_rows=13)}
    plan = make_plan([100], sources=sources, steps=60)
    rows = [row for step in walk(plan)["s0"] for row in step.rows.tolist()]
    subset = set(rows)
    assert len(subset) == 13
    assert max(subset) > 40  # not just the first rows of the file
    other_seed = make_plan([100], sources=sources, steps=60, seed=4)
    assert {row for step in walk(other_seed)["s0"] for row in step.rows.tolist()} != subset
    mixed = make_plan([100, 30], sources=sources, mixture=MixtureConfig(mixed_share=1.0), steps=60)
    seen = {pair for step in walk(mixed)["s0+s1"] for pair in pairs(step)}
    assert {row for source, row in seen if source == 0} == subset
    assert {row for source, row in seen if source == 1} == set(range(30))


def test_sources_of_equal_size_have_subsets_of_their_own() -> None:
    plan = make_plan([100, 100], sources={name: SourceConfig(max_rows=12) for name in ("s0", "s1")})
    one, other = ({row for step in steps for row in step.rows.tolist()} for steps in walk(plan).values())
    assert len(one & other) < 8


def test_mixed_steps_have_the_runs_batch_size() -> None:
    plan = make_plan([40, 40], sources={"s0": SourceConfig(batch_size=2)}, mixture=MixtureConfig(mixed_share=0.5))
    assert {stream.name: stream.batch_size for stream in plan.streams} == {"s0": 2, "s1": 4, "s0+s1": 4}


def test_more_max_rows_than_rows_means_all() -> None:
    plan = make_plan([20], sources={"s0": SourceConfig(max_rows=50)}, steps=5)
    assert {row for step in walk(plan)["s0"] for row in step.rows.tolist()} == set(range(20))


def texts_of(plan: BatchPlan, stores: dict[str, TokenStore], step: Step, *, queries_only: bool = False) -> list[int]:
    """Texts of the global batch that must not repeat; a row that has one twice counts once."""
    texts: list[int] = []
    for source, row in pairs(step):
        store = stores[plan.source_names[source]]
        queries, negatives, _ = store.row_spans(np.array([row]))
        end = queries[0] + 1 if queries_only else negatives[0]
        texts += set(store.text_hashes[queries[0] : end].tolist())
    return texts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_no_query_or_positive_stands_twice_in_a_batch(seed: int, buckets: bool, mixed_share: float) -> None:
    """Up to three rows share a query, up to three a positive, across sources too; a block has four batches or more."""
    generator = np.random.default_rng(seed)

    def store() -> TokenStore:
        queries, positives = (generator.permutation(np.repeat(np.arange(40), 3)) + base for base in (1, 1000))
        rows = [(int(q), [int(p)], [1]) for q, p in zip(queries, positives, strict=True)]
        return make_store(rows, tokens=generator.integers(1, 40, len(rows)).tolist())

    stores = {"a": store(), "b": store()}
    mixture = MixtureConfig(mixed_share=mixed_share, length_buckets=buckets, rows_per_block=120)
    plan = make_plan(stores, batch_size=8, steps=40, mixture=mixture, seed=seed)
    for number in range(plan.steps):
        step = plan.step(number)
        texts = texts_of(plan, stores, step)
        assert len(set(texts)) == len(texts)
        assert step.num_repeated == 0


def test_a_block_has_room_to_deal_even_where_one_batch_is_more_than_rows_per_block() -> None:
    stores = {"a": make_store([(1 + row // 3, [1000 + row], []) for row in range(96)])}
    plan = make_plan(stores, batch_size=8, steps=48, mixture=MixtureConfig(rows_per_block=1))
    assert [plan.step(step).num_repeated for step in range(48)] == [0] * 48


def test_unavoidable_repetitions_are_counted_and_batches_stay_full() -> None:
    stores = {"a": make_store([(1 + row % 2, [100 + row], []) for row in range(40)])}
    steps = walk(make_plan(stores, steps=10))["a"]
    assert [len(step.rows) for step in steps] == [4] * 10
    assert [step.num_repeated for step in steps] == [2] * 10


def test_each_step_says_how_many_of_its_own_rows_repeat() -> None:
    """7 of 16 rows have one query, and there are 4 batches: 3 rows too many, wherever they are."""
    stores = {"a": make_store([(1 if row < 7 else 100 + row, [1000 + row], []) for row in range(16)])}
    plan = make_plan(stores, steps=40)
    found = [plan.step(step) for step in range(40)]
    assert [step.num_repeated for step in found] == [max(0, int((step.rows < 7).sum()) - 1) for step in found]
    assert sum(step.num_repeated for step in found) == 10 * 3


@pytest.mark.parametrize(
    ("no_repeats", "task", "repeated_queries", "repeated_labels"),
    [
        (NoRepeats.auto, "classification", False, True),
        (NoRepeats.auto, "retrieval", False, False),
        (NoRepeats.queries, "retrieval", False, True),
        (NoRepeats.texts, "sts", False, False),
        (NoRepeats.none, "retrieval", True, True),
    ],
)
def test_which_texts_may_repeat_is_the_sources_choice(
    no_repeats: NoRepeats, task: str, repeated_queries: bool, repeated_labels: bool
) -> None:
    """12 labels, and every query twice: room enough to keep both apart in batches of 6, were it asked for."""
    stores = {"a": make_store([(1 + row // 2, [1000 + row % 12], []) for row in range(72)])}
    sources = {"a": SourceConfig(task=task, no_repeats=no_repeats)}
    plan = make_plan(stores, sources=sources, batch_size=6, steps=48, mixture=MixtureConfig(rows_per_block=72))
    repeats = {True: False, False: False}
    for number in range(plan.steps):
        step = plan.step(number)
        queries = texts_of(plan, stores, step, queries_only=True)
        labels = [int(stores["a"].text_hashes[2 * row + 1]) for row in step.rows.tolist()]
        repeats[True] |= len(set(queries)) < len(queries)
        repeats[False] |= len(set(labels)) < len(labels)
    assert repeats == {True: repeated_queries, False: repeated_labels}


def spread(plan: BatchPlan, lengths: np.ndarray) -> float:
    """Mean over steps of the longest row over the shortest."""
    own = [lengths[plan.step(step).rows] for step in range(plan.steps)]
    return float(np.mean([rows.max() / rows.min() for rows in own]))


def test_length_buckets_put_rows_of_like_length_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 400)
    stores = {"a": make_store(distinct_rows(400), tokens=lengths.tolist())}
    plain, bucketed = (
        make_plan(stores, batch_size=8, mixture=MixtureConfig(length_buckets=buckets), steps=50)
        for buckets in (False, True)
    )
    assert spread(bucketed, lengths) < 0.3 * spread(plain, lengths)
    means = [lengths[bucketed.step(step).rows].mean() for step in range(50)]
    assert abs(np.corrcoef(np.arange(50), means)[0, 1]) < 0.4  # not from short to long
    wide = make_plan(stores, batch_size=100, mixture=MixtureConfig(length_buckets=True), steps=8)  # many buckets each
    firsts = np.mean([lengths[wide.step(step).rows[:50]].mean() for step in range(8)])
    lasts = np.mean([lengths[wide.step(step).rows[50:]].mean() for step in range(8)])
    assert firsts == pytest.approx(lasts, rel=0.1)  # every rank has its share of the longer ones


def test_lengths_beyond_the_limits_are_all_alike() -> None:
    stores = {"a": make_store(distinct_rows(80), tokens=[100 + 10 * row for row in range(80)])}
    alike = {"a": make_store(distinct_rows(80), tokens=[63] * 80)}
    plans = [make_plan(own, mixture=MixtureConfig(length_buckets=True)) for own in (stores, alike)]
    assert all(pairs(plans[0].step(step)) == pairs(plans[1].step(step)) for step in range(20))


def test_language_buckets_put_rows_of_one_language_together_over_sources() -> None:
    languages = {name: ["de", "en", "fr"] if name == "a" else ["en", "fr", ""] for name in "ab"}
    stores = {
        name: make_store(distinct_rows(120, 1 + 1000 * i), languages=languages[name] * 40)
        for i, name in enumerate("ab")
    }

    def num_languages(language_buckets: bool) -> float:
        mixture = MixtureConfig(language_buckets=language_buckets, mixed_share=1.0)
        plan = make_plan(stores, batch_size=8, steps=30, mixture=mixture)
        return float(
            np.mean(
                [
                    len({languages[plan.source_names[source]][row % 3] for source, row in pairs(plan.step(step))})
                    for step in range(30)
                ]
            )
        )

    assert num_languages(True) < 1.2
    assert num_languages(False) > 3


def test_a_source_smaller_than_a_batch_is_refused_with_the_remedy_unless_it_is_only_mixed() -> None:
    with pytest.raises(ValueError, match=r"data.s0 has 3 rows, fewer than batch_size=4. Set batch_size to at most 3,"):
        make_plan([3, 20])
    plan = make_plan([3, 20], mixture=MixtureConfig(mixed_share=1.0))
    assert {stream.name for stream in plan.streams} == {"s0+s1"}
    assert make_plan([3], sources={"s0": SourceConfig(batch_size=3)}).step(0).rows.shape == (3,)


def test_ranks_must_divide_every_batch() -> None:
    with pytest.raises(ValueError, match=r"batch_size=4 \(data.s0\) is not divisible by the 3 ranks. Use a multiple"):
        make_plan([20]).local(0, 0, 3)
    plan = make_plan([20, 20], sources={"s1": SourceConfig(batch_size=6)})
    with pytest.raises(ValueError, match=r"batch_size=6 \(data.s1\) is not divisible by the 4 ranks"):
        plan.check_world_size(4)  # said at the start, not when s1's first step comes


def test_a_large_source_costs_nothing_to_plan_and_to_seek() -> None:
    """150 million rows: 1.2 GB as a list of numbers; here the arrays are views of one value."""
    rows = 150_000_000
    one = np.ones(1, dtype=np.int64)

    def endless(stride_value: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(stride_value, (rows,), (0,))

    store = TokenStore(
        directory=make_store(distinct_rows(1)).directory, key="k", contents="c",
        ids=endless(one), text_ends=endless(one), text_hashes=endless(one), row_ends=endless(one),
        num_positives=endless(one),
    )  # fmt: skip
    source = SourceConfig(max_rows=140_000_000, no_repeats=NoRepeats.none)
    import tracemalloc

    tracemalloc.start()
    plan = make_plan({"a": store}, sources={"a": source}, mixture=MixtureConfig(), batch_size=1024, steps=100_000)
    found = plan.step(99_999).rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.max() > 100_000_000
    assert peak < 20e6
