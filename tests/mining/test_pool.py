"""A document counts once, whatever its case and white space."""

from qwen3emb_train.mining.pool import DocumentPool


def test_the_pool_keeps_the_first_of_identical_texts() -> None:
    pool = DocumentPool()
    pool.add([("one", "A b"), ("two", "c"), ("three", "a  B")])
    pool.add([("four", "C "), ("five", "d")])
    assert pool.texts == ["A b", "c", "d"]
    assert pool.ids == ["one", "two", "five"]
    assert pool.rows(["a b", "D"]) == [0, 2]
