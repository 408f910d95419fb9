"""Near-duplicates on disk: the same as in memory, however the texts are divided."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from qwen3emb_train.texts.near_duplicates import FirstOnes, match
from qwen3emb_train.texts.overlap import ComparedText, NearDuplicateIndex, band_shape
from qwen3emb_train.texts.sketches import Sketches, SketchWriter, band_keys

WORDS = [f"{first}{last}" for first in ("al", "be", "ga", "de") for last in ("pha", "ta", "mma", "lta", "ro")]


def drawn(num: int, seed: int = 0) -> list[str]:
    """Texts of which many are the same or near to an earlier one; some are long, some have no words."""
    random = Random(seed)
    texts: list[str] = ["", "?!"]
    while len(texts) < num:
        kind = random.random()
        if kind < 0.5:
            texts.append(" ".join(random.choice(WORDS) + str(random.randrange(40)) for _ in range(9)))
        elif kind < 0.6:
            texts.append(random.choice(texts).upper())
        elif kind < 0.62:
            texts.append(" ".join(random.choice(WORDS) + str(random.randrange(900)) for _ in range(400)))
        else:
            words = random.choice(texts).split() or ["x"]
            words[random.randrange(len(words))] = random.choice(WORDS)
            texts.append(" ".join(words))
    return texts


def in_memory(texts: list[str], offered: list[int], threshold: float) -> dict[int, tuple[str, float] | None]:
    """The plain reference: one after the other against the index of those kept."""
    index, kept, verdicts = NearDuplicateIndex(threshold), list[str](), dict[int, tuple[str, float] | None]()
    for number in offered:
        compared = ComparedText(texts[number])
        near = index.near(compared)
        verdicts[number] = (kept[near[0][0]], near[0][1]) if near else None
        if not near:
            index.add(compared)
            kept.append(f"{number} {texts[number]}")
    return verdicts


def on_disk(
    texts: list[str], offered: list[int], threshold: float, work: Path, num_parts: int, per_bucket: int
) -> dict[int, tuple[str, float] | None]:
    parts = []
    for part, numbers in enumerate(np.array_split(np.arange(len(texts)), num_parts)):
        (directory := work / f"part-{part}").mkdir(parents=True)
        writer = SketchWriter(directory, threshold)
        for number in numbers.tolist():
            writer.add(ComparedText(texts[number]), f"{number} {texts[number]}")
        writer.close()
        parts.append(directory)
    sketches = Sketches(parts, threshold)
    first = FirstOnes(sketches, match(sketches, work, per_bucket=per_bucket))
    return {number: first.offer(number) for number in offered}


@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
@pytest.mark.parametrize(("num_parts", "per_bucket"), [(1, 10_000), (7, 50)])
def test_the_verdicts_are_those_of_the_index_in_memory(
    tmp_path: Path, threshold: float, num_parts: int, per_bucket: int
) -> None:
    """To the last bit of the similarity, and the same text in the message; also where some are never offered."""
    texts = drawn(700)
    for skipped in (0.0, 0.2):
        offered = [number for number in range(len(texts)) if Random(number).random() >= skipped]
        expected = in_memory(texts, offered, threshold)
        assert 30 < sum(verdict is not None for verdict in expected.values()) < 600
        assert on_disk(texts, offered, threshold, tmp_path / str(skipped), num_parts, per_bucket) == expected


def test_a_band_is_equal_exactly_where_datasketchs_is() -> None:
    bands, rows = band_shape(0.8)
    texts = [compared for text in drawn(300) if (compared := ComparedText(text)).shingles.size]
    ours = np.array([band_keys(text, bands, rows) for text in texts])
    theirs = np.array([text.minhash.hashvalues[: bands * rows].reshape(bands, rows) for text in texts])
    for band in range(bands):
        same = (theirs[:, None, band] == theirs[None, :, band]).all(axis=2)
        assert (same == (ours[:, None, band] == ours[None, :, band])).all()


def test_no_text_at_all(tmp_path: Path) -> None:
    assert on_disk([], [], 0.8, tmp_path, 1, 10) == {}
