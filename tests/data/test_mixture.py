"""Settings that are refused, and the shares that follow from them."""

import pytest

from qwen3emb_train.data.mixture import LengthConfig, MixtureConfig, NoRepeats, SourceConfig, source_shares

ROWS = {"a": 100, "b": 400, "c": 900}


def shares(mixture: MixtureConfig, **changes: SourceConfig) -> dict[tuple[str, ...], float]:
    sources = {"a": SourceConfig(), "b": SourceConfig(), "c": SourceConfig(task="sts")} | changes
    return source_shares(sources, ROWS, mixture)


def test_shares_follow_weight_times_rows_to_the_power_alpha() -> None:
    assert shares(MixtureConfig(alpha=0.5)) == pytest.approx({("a",): 10 / 60, ("b",): 20 / 60, ("c",): 30 / 60})
    assert shares(MixtureConfig(alpha=1.0)) == pytest.approx({("a",): 1 / 14, ("b",): 4 / 14, ("c",): 9 / 14})
    weighted = shares(MixtureConfig(alpha=0.0), b=SourceConfig(weight=2.0))
    assert weighted == pytest.approx({("a",): 0.25, ("b",): 0.5, ("c",): 0.25})


def test_rows_beyond_the_cap_do_not_count() -> None:
    assert shares(MixtureConfig(alpha=1.0, rows_cap=400)) == pytest.approx(
        {("a",): 1 / 9, ("b",): 4 / 9, ("c",): 4 / 9}
    )


def test_a_mixed_share_is_taken_from_the_sources_of_a_task_that_has_several() -> None:
    assert shares(MixtureConfig(alpha=0.0, mixed_share=0.25)) == pytest.approx(
        {("a",): 0.25, ("b",): 0.25, ("a", "b"): 0.5 / 3, ("c",): 1 / 3}
    )
    assert shares(MixtureConfig(alpha=0.0, mixed_share=1.0)) == pytest.approx({("a", "b"): 2 / 3, ("c",): 1 / 3})


def test_labels_may_repeat_and_other_texts_may_not() -> None:
    for task in ("classification", "clustering", "sts"):
        assert SourceConfig(task=task).unrepeated() is NoRepeats.queries
    for task in ("retrieval", "bitext"):
        assert SourceConfig(task=task).unrepeated() is NoRepeats.texts
    assert SourceConfig(task="sts", no_repeats=NoRepeats.none).unrepeated() is NoRepeats.none


@pytest.mark.parametrize(
    "field", [{"weight": 0.0}, {"max_positives": 0}, {"max_negatives": -1}, {"max_rows": 0}, {"batch_size": 1}]
)
def test_bad_source_settings_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"data.*{next(iter(field))} is .*; "):
        SourceConfig(path="x", **field)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field", [{"alpha": -0.1}, {"mixed_share": 1.5}, {"epochs": 0}, {"rows_cap": 0}, {"rows_per_block": 0}]
)
def test_bad_mixture_settings_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"mixture.{next(iter(field))} is .*; "):
        MixtureConfig(**field)  # type: ignore[arg-type]


def test_lengths_leave_room_for_a_token_and_the_closing_one() -> None:
    with pytest.raises(ValueError, match=r"lengths.max_query_tokens is 1; a text and its EOS token need 2"):
        LengthConfig(max_query_tokens=1)
