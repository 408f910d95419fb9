"""A set is read as it stands, or refused with file, line and field."""

from pathlib import Path

import pytest
import torch

from qwen3emb_train.evaluation.config import SetConfig, TaskKind
from qwen3emb_train.evaluation.sets import load_set
from qwen3emb_train.evaluation.tasks.pairs import cosines
from qwen3emb_train.evaluation.tasks.sts import StsTask, read_sts

STS = "sentence1\tsentence2\tscore\n"
GOOD_STS = STS + 'a cat\ta dog\t1.5\n\nit\u2028breaks\t "quotes" stay\t4\n'


PAIR = '"sentence1": "a", "sentence2": "b"'
X, Y, Z = (f'{{"text": "a {label}", "label": "{label}"}}\n' for label in "xyz")


def _write(directory: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")


def test_tsv_and_jsonl_hold_the_same_pairs(tmp_path: Path) -> None:
    """Quotes and Unicode's own line ends are part of a text; ids are line numbers."""
    lines = [
        '{"sentence1": "a cat", "sentence2": "a dog", "score": 1.5}',
        "",
        '{"sentence1": "it\\u2028breaks", "sentence2": " \\"quotes\\" stay", "score": "4"}',
    ]
    _write(tmp_path, {"dev.tsv": GOOD_STS, "test.jsonl": "\n".join(lines)})
    one, other = read_sts(tmp_path, "dev"), read_sts(tmp_path, "test")
    assert one.texts == other.texts == ["a cat", "it\u2028breaks", "a dog", ' "quotes" stay']
    assert one.gold.tolist() == other.gold.tolist() == [1.5, 4.0]
    assert (one.pairs.ids, other.pairs.ids, one.size) == (["2", "4"], ["1", "3"], 2)


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("sts", {"test.tsv": "a\tb\tc\n"}, r"test.tsv:1: the header is .*'sentence1<tab>sentence2<tab>score'"),
        ("sts", {"test.tsv": STS + "a\tb\n"}, r"test.tsv:2: 2 tab-separated columns; there must be 3"),
        ("sts", {"test.tsv": STS + "a\tb\tgood\n"}, r"test.tsv:2: field 'score' is 'good'; it must be a finite number"),
        ("sts", {"test.tsv": STS + "a\tb\tnan\n"}, r"test.tsv:2: field 'score' is 'nan'"),
        ("sts", {"test.tsv": STS + "a\tb\t1\na\tc\t1\n"}, r"test.tsv: every score is 1.0"),
        ("sts", {"test.tsv": STS}, r"test.tsv: holds no lines"),
        ("sts", {"test.jsonl": '{"sentence1": "a", "sentence2": " ", "score": 1}'}, r"test.jsonl:1: field 'sentence2'"),
        ("sts", {"test.jsonl": f'{{{PAIR}, "score": true}}'}, r"jsonl:1: field 'score' is True"),
        ("sts", {"test.jsonl": '{"sentence1": "a"}'}, r"test.jsonl:1: field 'sentence2' is missing; there are"),
        ("sts", {"test.jsonl": "{oops"}, r"test.jsonl:1: .*is not JSON"),
        ("sts", {"test.jsonl": "{}", "test.tsv": STS}, r"test.tsv and test.jsonl both exist"),
        ("pair_classification", {"test.jsonl": f'{{{PAIR}, "label": 2}}'}, r":1: .*'label' is 2; "),
        ("pair_classification", {"test.jsonl": f'{{{PAIR}, "label": 1}}'}, r"every label is 1"),
        ("classification", {"train.jsonl": X.replace('"x"', "1.5"), "test.jsonl": X}, r"train.jsonl:1: .* is 1.5"),
        ("classification", {"train.jsonl": X + Y, "test.jsonl": X + Z}, r"test.jsonl:2: .* 'z'; no text of train"),
        ("classification", {"train.jsonl": X + X, "test.jsonl": X}, r"train.jsonl: every label is 'x'"),
        ("clustering", {"test.jsonl": X}, r"test.jsonl: every label is 'x'"),
        ("clustering", {"test.jsonl": '{"text": 3, "label": "x"}'}, r"test.jsonl:1: field 'text' is 3"),
        ("bitext", {"test.tsv": STS}, r"the header is .*it must be 'sentence1<tab>sentence2'"),
    ],
)  # fmt: skip
def test_a_bad_set_is_named_by_file_line_and_field(
    tmp_path: Path, task: str, files: dict[str, str], message: str
) -> None:
    _write(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        load_set(SetConfig(path=str(tmp_path), task=TaskKind(task)))


def test_a_missing_split_names_those_that_are_there(tmp_path: Path) -> None:
    _write(tmp_path, {"dev.tsv": GOOD_STS})
    with pytest.raises(
        FileNotFoundError, match=r"test.tsv or .*test.jsonl: no such file. Splits that exist: \['dev'\]"
    ):
        load_set(SetConfig(path=str(tmp_path), task=TaskKind.sts))
    task = load_set(SetConfig(path=str(tmp_path), split="dev", task=TaskKind.sts))
    assert isinstance(task, StsTask)


def test_pairs_of_equal_texts_are_equally_near() -> None:
    """The last bits of a long vector's cosine with itself differ from vector to vector."""
    vectors = torch.randn(200, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    assert set(cosines(vectors, vectors)) == {1.0}
    assert cosines(vectors * 0.0, vectors).tolist() == [0.0] * 200
