"""Overlaps: similarities are the true Jaccard ones, held-out texts are found by each rule, look-alikes are not."""

from collections.abc import Sequence
from random import Random

import pytest

from qwen3emb_train.texts.overlap import (
    ComparedText,
    HeldOutTexts,
    NearDuplicateIndex,
    OverlapRule,
    normal_form,
    similarity,
    text_shingles,
)

GREEK = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
QUESTION = "how can I wait until a child process has ended"
ARTICLE = (
    "Migrating geese store fat before the journey and fly in a wedge, where each bird gains lift from the wing tip "
    "vortex of the bird before it, so that the flock as a whole tires less than a bird that flies alone."
)


def grams(text: str) -> set[str]:
    return {text[start : start + 4] for start in range(max(1, len(text) - 3))}


def jaccard(a: str, b: str) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def rule_of(texts: Sequence[str], text: str, is_query: bool = False, **settings: object) -> OverlapRule | None:
    match = HeldOutTexts(texts, **settings).find(ComparedText(text), is_query=is_query)  # type: ignore[arg-type]
    return None if match is None else match.rule


@pytest.mark.parametrize(
    ("a", "b"),
    [("gc", "os"), ("gc", "gc"), ("one two three", "one two four"), ("北京有多少人口", "北京有多少人"), ("ab", "abc")],
)
def test_the_similarity_of_short_texts_is_the_jaccard_similarity_of_their_4_grams(a: str, b: str) -> None:
    """Where normalisation changes nothing, it equals a brute-force one. Han characters are words of their own."""
    spaced = [" ".join(text) if ord(text[0]) > 0x4E00 else text for text in (a, b)]
    assert similarity(text_shingles(a), text_shingles(b)) == pytest.approx(jaccard(*spaced))


@pytest.mark.parametrize("changed", [0, 40, 200, 700])
def test_the_similarity_of_long_texts_is_off_by_little_and_needs_the_smallest_hashes_only(changed: int) -> None:
    """Bottom-k sketch: standard error below 0.016; the sketches of the two are enough."""
    random = Random(changed)
    words = [f"{random.randrange(10**6)}" for _ in range(1500)]
    others = list(words)
    for place in random.sample(range(1500), changed):
        others[place] = f"{random.randrange(10**6)}"
    a, b = " ".join(words), " ".join(others)
    found = similarity(text_shingles(a), text_shingles(b))
    assert found == pytest.approx(jaccard(a, b), abs=0.05)
    assert found == similarity(text_shingles(a), text_shingles(b)[:1024])
    assert (found == 1) == (changed == 0)


def test_a_text_without_words_is_like_no_other() -> None:
    index = NearDuplicateIndex(0.5)
    for text in ("?!", "...", ""):
        assert index.near(ComparedText(text)) == []
        index.add(ComparedText(text))
    assert similarity(text_shingles("?!"), text_shingles("?!")) == 0


def test_near_texts_come_best_first_and_equal_ones_in_order() -> None:
    index = NearDuplicateIndex(0.3)
    texts = ["how do I reset the password", "how do I reset my password", "How do I reset my password?", "cook rice"]
    assert [index.add(ComparedText(text)) for text in texts] == [0, 1, 2, 3]
    found = index.near(ComparedText("how do i reset my password"))
    assert [number for number, _ in found] == [1, 2, 0]
    assert [value for _, value in found[:2]] == [1, 1]
    assert len(index) == 4


def test_near_duplicates_equal_brute_force_but_for_a_few() -> None:
    """MinHash only proposes: against all pairs it may miss one, never invent one."""
    random = Random(0)
    index, texts, missed, num_true = NearDuplicateIndex(0.75), [""], 0, 0
    seen: list[set[str]] = []
    for number in range(200):
        base = [random.choice(GREEK) for _ in range(9)]
        text = " ".join(base) if number % 2 else " ".join([*texts[-1].split()[:8], "omega"])
        own = grams(text)
        true = {other for other, old in enumerate(seen) if len(old & own) / len(old | own) >= 0.75}
        found = {other for other, _ in index.near(ComparedText(text))}
        assert found <= true
        missed += len(true - found)
        num_true += len(true)
        index.add(ComparedText(text))
        texts.append(text)
        seen.append(own)
    assert num_true > 20, "otherwise the comparison says nothing"
    assert missed <= 0.05 * num_true


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (QUESTION, OverlapRule.equal),
        ("HOW can i  wait\nuntil a child process has ended ", OverlapRule.equal),
        ("How can I wait until a child-process has ended???", OverlapRule.same_words),
        ("Ｈｏｗ can I wait until a child process has ended", OverlapRule.same_words),
        ("how can i wait until the child process has ended", OverlapRule.near_duplicate),
        ("Prologue. " + " ".join(ARTICLE.split()[5:18]) + " and so on", OverlapRule.ngram),
        (ARTICLE + " A sentence more.", OverlapRule.ngram),
        # look-alikes
        ("Prologue. " + " ".join(ARTICLE.split()[5:17]) + " and so on", None),
        ("how can I wait until a thread pool has drained", None),
        ("geese fly in a wedge", None),
        ("", None),
    ],
)
def test_each_rule_finds_what_it_is_for(text: str, rule: OverlapRule | None) -> None:
    assert rule_of([QUESTION, ARTICLE], text) == rule


@pytest.mark.parametrize("rule", OverlapRule)
def test_a_rule_that_is_off_finds_nothing(rule: OverlapRule) -> None:
    planted = {
        OverlapRule.equal: QUESTION.upper(),
        OverlapRule.same_words: QUESTION + "?",
        OverlapRule.ngram: ARTICLE + " A sentence more.",
        OverlapRule.near_duplicate: QUESTION + "s",
    }[rule]
    assert rule_of([QUESTION, ARTICLE], planted, rules=[rule]) == rule
    assert rule_of([QUESTION, ARTICLE], planted, rules=[other for other in OverlapRule if other is not rule]) != rule


def test_a_label_is_found_as_a_query_only() -> None:
    assert rule_of(["sports"], "Sports", is_query=True) is OverlapRule.equal
    assert rule_of(["sports"], "Sports") is None


@pytest.mark.parametrize(("num_texts", "rule"), [(10, OverlapRule.ngram), (11, None)])
def test_a_run_that_many_texts_share_is_boilerplate(num_texts: int, rule: OverlapRule | None) -> None:
    licence = "this page is shown under the usual licence of the editors of the free encyclopedia of the land"
    texts = [f"{licence} {' '.join(f'{number}x{place}' for place in range(20))}" for number in range(num_texts)]
    assert rule_of(texts, f"about trains {licence} and about nothing else that is of note today") == rule


@pytest.mark.parametrize(("share", "rule"), [(0.0, OverlapRule.ngram), (0.2, OverlapRule.ngram), (0.3, None)])
def test_a_share_of_runs_can_be_asked_for(share: float, rule: OverlapRule | None) -> None:
    """20 words, 8 runs, of which 2 are held-out ones: 25 %."""
    held_out = [f"w{number}" for number in range(14)]
    text = " ".join([*held_out, *(f"x{number}" for number in range(6))])
    assert (
        rule_of([" ".join(held_out) + " and a few words more"], text, min_run_share=share, rules=[OverlapRule.ngram])
        == rule
    )


def test_the_match_shows_what_is_shared() -> None:
    texts = HeldOutTexts([QUESTION, ARTICLE])
    near = texts.find(ComparedText("how can i wait until the child process has ended"))
    run = texts.find(ComparedText("Prologue " + " ".join(ARTICLE.split()[5:18])))
    assert near is not None
    assert near.shared == QUESTION
    assert 0.7 <= near.similarity < 1
    assert run is not None
    assert run.shared == " ".join(ARTICLE.split()[5:18]).replace(",", "")
    assert texts.num_texts == 2


def test_the_normal_form_forgets_case_and_white_space_alone() -> None:
    assert normal_form(" Ls\t-L\n") == normal_form("ls -l") != normal_form("ls l")
