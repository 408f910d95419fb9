"""The index is a dict in 24 bytes an entry."""

import hashlib

import pytest

from data_synth.ledger import key_index
from data_synth.ledger.key_index import KeyIndex


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()[:16]


def test_it_answers_as_a_dict_does_through_all_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_RECENT", 7)
    index, expected = KeyIndex(), {}
    keys = [key(number % 300) for number in range(1000)] + [bytes(16), b"\x01" + bytes(15), bytes(15) + b"\x01"]
    for value, each in enumerate(keys):
        index.set(each, value)
        expected[each] = value
        assert index.get(each) == value
    assert all(index.get(each) == value for each, value in expected.items())
    assert all(index.get(key(number)) is None for number in range(300, 400))
    assert index.get(b"\x02" + bytes(15)) is None


def test_an_entry_costs_24_bytes_and_few_arrays_are_searched() -> None:
    index = KeyIndex()
    num_entries = 3 * key_index._RECENT
    for number in range(num_entries):
        index.set(number.to_bytes(16), number)
    assert index.num_bytes == 24 * num_entries
    assert len(index._runs) <= 2
    assert index.get((12_345).to_bytes(16)) == 12_345
