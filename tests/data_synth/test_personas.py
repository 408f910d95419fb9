"""Personas: the nearest few, deterministic, with ties not broken by file order."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_synth import personas as module
from data_synth.personas import (
    STARTER_PERSONAS,
    EmbeddedPersonas,
    PersonasConfig,
    PersonaSearch,
    build_persona_search,
    load_personas,
    nearest_rows,
)

REEF = "Corals bleach when the sea stays warm for weeks; marine biologists count the reefs that recover."


def test_the_starter_list_has_two_hundred_distinct_personas() -> None:
    personas = load_personas(STARTER_PERSONAS)
    assert len(personas) >= 200
    assert len(set(personas)) == len(STARTER_PERSONAS.read_text().splitlines())
    assert all(persona.endswith(".") and len(persona) < 150 for persona in personas)


def test_common_words_find_the_persona() -> None:
    search = build_persona_search(PersonasConfig())
    assert isinstance(search, PersonaSearch)
    (found,) = search.nearest([REEF])
    assert "marine biologist" in found[0]
    assert len(set(found)) == 5


def test_a_passage_gets_the_same_personas_alone_and_among_others() -> None:
    search = build_persona_search(PersonasConfig(num_personas=3))
    texts = [REEF, "珊瑚礁在海水变暖时会白化。", "{{ }} \x00 🙂", "the of and"]
    assert search.nearest(texts) == [search.nearest([text])[0] for text in texts]
    assert search.nearest([]) == []


def test_passages_without_a_common_word_get_different_personas() -> None:
    search = build_persona_search(PersonasConfig())
    found = search.nearest([f"珊瑚礁 {number}" for number in range(30)])
    assert len({persona for row in found for persona in row}) > 60


def test_nearest_rows_equals_sorting_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, also where a block has fewer rows than are asked for."""
    generator = np.random.default_rng(0)
    queries, rows = (generator.normal(size=size).astype(np.float32) for size in ((7, 8), (101, 8)))
    expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :5]
    for size in (2, 3, 50, 100, 1000):
        monkeypatch.setattr(module, "_PERSONAS_PER_BLOCK", size)
        np.testing.assert_array_equal(nearest_rows(queries, rows, 5), expected)


def test_an_embedding_model_finds_a_persona_by_its_own_words(tiny_qwen3: Path, tmp_path: Path) -> None:
    """Any directory that sentence-transformers opens; here a random model, to which a text is nearest to itself."""
    pytest.importorskip("sentence_transformers")
    search = build_persona_search(PersonasConfig(model=str(tiny_qwen3), num_personas=2, device="cpu"))
    assert isinstance(search, EmbeddedPersonas)
    own = load_personas(STARTER_PERSONAS)[17]
    assert search.nearest([own])[0][0] == own
    prompted = EmbeddedPersonas(["A b.", "C d."], PersonasConfig(model=str(tiny_qwen3), passage_prompt="Find: "))
    assert len(prompted.nearest(["A b."])[0]) == 2
    with pytest.raises(FileNotFoundError, match="no such directory"):
        build_persona_search(PersonasConfig(model="some/hub-name"))


@pytest.mark.parametrize(
    "line", ["not json", "{}", '{"persona": 7}', '{"persona": " "}', '"x"', '{"persona": "\\ud800"}']
)
def test_a_line_that_is_no_persona_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "personas.jsonl"
    path.write_text(json.dumps({"persona": "A potter."}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"personas\.jsonl:2"):
        load_personas(path)


def test_too_few_personas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "personas.jsonl"
    path.write_text('{"persona": "A potter."}\n{"persona": "A  potter."}\n')
    with pytest.raises(ValueError, match="num_personas=5"):
        build_persona_search(PersonasConfig(path=str(path)))
    with pytest.raises(FileNotFoundError, match="no such persona file"):
        load_personas(tmp_path / "absent.jsonl")
