"""The report counts what came short, and can be read without anything beside it."""

import re

import pytest

from qwen3emb_train.mining.pool import DocumentPool
from qwen3emb_train.mining.provenance import Mined, line_of
from qwen3emb_train.mining.report import NUM_EXAMPLES, Histogram, MiningStatistics
from qwen3emb_train.mining.rules import Candidate


def _mined(positives: list[float], negatives: list[float], query: str = "q", reranker: float | None = None) -> Mined:
    def candidates(cosines: list[float], source: str) -> tuple[Candidate, ...]:
        rank = None if source == "positive" else 3
        return tuple(Candidate(0, source, rank, c, c if reranker is None else reranker) for c in cosines)

    return Mined(query, candidates(positives, "positive"), candidates(negatives, "model"), reranker is not None)


def _pool(text: str = "a text") -> DocumentPool:
    pool = DocumentPool()
    pool.add([("d0", text)])
    return pool


def test_the_report_counts_what_came_short() -> None:
    statistics = MiningStatistics(num_negatives=2, num_queries=3, num_candidates=9)
    statistics.add(_mined([0.8], [0.5, 0.4]), 0.8)
    statistics.add(_mined([0.6, 0.3], [0.1]), 0.7)
    statistics.add(_mined([0.9], []), 0.1)
    counts = statistics.counts
    assert (counts["num_examples"], counts["num_short"], counts["num_without"]) == (3, 2, 1)
    assert counts["num_positive_first"] == 2
    assert counts["num_by_model"] == 3
    assert counts["mean_negative_score"] == pytest.approx(1 / 3)
    assert "with fewer than 2 negatives" in statistics.as_text()
    assert "recall" not in counts


def test_histograms_cover_every_value_once() -> None:
    histogram = Histogram()
    histogram.add([-1.0, 1.0, 0.01, 0.01, 1.0000001])
    lines = histogram.lines("cosines")
    assert lines[0].startswith("cosines: 5, mean")
    assert [int(line.split()[3]) for line in lines[1:]].count(0) == 37
    assert sum(int(line.split()[3]) for line in lines[1:]) == 5
    assert lines[1].split() == ["-1.00", "..", "-0.95", "1", "#" * 20]
    assert Histogram().lines("cosines") == ["cosines: none"]


def test_the_page_needs_no_other_file_and_shows_ten_examples() -> None:
    statistics = MiningStatistics(num_negatives=1, num_queries=30, num_candidates=9)
    for number in range(30):
        statistics.add(_mined([0.8], [0.2], f"query {number} <script>"), 0.8)
    page = statistics.as_html(_pool("text <b> & more"))
    assert page.count("<h3") == NUM_EXAMPLES == len({mined.query for mined in statistics.shown})
    assert not re.search(r"(src|href)=|<script", page)
    assert page.count("<svg") == 2
    assert "text &lt;b&gt; &amp; more" in page
    assert "model, rank 3, 0.200" in page


def test_the_examples_to_read_come_from_the_whole_set() -> None:
    statistics = MiningStatistics(num_negatives=1, num_queries=1, num_candidates=1)
    for number in range(1000):
        statistics.add(_mined([0.8], [0.2], str(number)), 0.8)
    shown = sorted(int(mined.query) for mined in statistics.shown)
    assert shown[0] < 400
    assert shown[-1] > 600


def test_a_rerankers_scores_have_their_own_histograms_and_provenance() -> None:
    statistics = MiningStatistics(num_negatives=1, num_queries=1, num_candidates=1)
    mined = _mined([0.8], [0.2], reranker=0.75)
    statistics.add(mined, 0.8)
    assert "negative reranker scores: 1, mean 0.750" in statistics.as_text()
    assert line_of(mined, _pool()) == (
        '{"positives": [{"id": "d0", "cosine": 0.8, "reranker": 0.75}], '
        '"negatives": [{"id": "d0", "cosine": 0.2, "reranker": 0.75, "source": "model", "rank": 3}]}\n'
    )
    assert line_of(None, _pool()) == "{}\n"
