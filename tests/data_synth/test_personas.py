"""Personas: some of the nearest, across languages, none too often, and the same whatever else is there."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_synth import persona_index as module
from data_synth import subjects
from data_synth.persona_index import DenseIndex, SparseIndex, nearest_rows
from data_synth.personas import STARTER_PERSONAS, PersonasConfig, PersonaSearch, build_persona_search, load_personas

REEF = "Corals bleach when the sea stays warm for weeks; marine biologists count the reefs that recover."


NEAREST = PersonasConfig(max_share=1.0)


def test_the_list_that_comes_along_has_over_a_thousand_distinct_personas() -> None:
    personas = load_personas(STARTER_PERSONAS)
    assert len(personas) >= 1200
    assert len(set(personas)) == len(STARTER_PERSONAS.read_text().splitlines())
    assert all(persona.endswith(".") and len(persona) < 150 for persona in personas)


def test_common_words_find_the_persona() -> None:
    search = build_persona_search(NEAREST)
    assert isinstance(search, PersonaSearch)
    (found,) = search.nearest([REEF])
    assert "marine biologist" in found[0]
    assert len(set(found)) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("患者の心臓の治療について、病院の医師が説明する。", ("cardiolog", "heart", "doctor", "blood", "stroke")),
        ("铁路车站每天有许多列车经过。", ("railway", "train", "station", "locomotive", "tram", "metro")),
        ("Больница лечит пациентов с опухолью, врач назначает лекарства.", ("cancer", "doctor", "tumour", "chemo")),
        ("ชาวนาปลูกข้าวและเก็บเกี่ยวในฤดูฝน เกษตรกร", ("farm", "grower", "rice", "harvester")),
        ("يدرس الباحث النجوم والكواكب في الفضاء", ("space", "star", "astronom", "satellite", "planet")),
    ],
)
def test_a_passage_in_another_language_finds_personas_of_its_subject(text: str, words: tuple[str, ...]) -> None:
    (found,) = build_persona_search(NEAREST).nearest([text])
    fitting = [persona for persona in found if any(word in persona.lower() for word in words)]
    assert len(fitting) >= 3, found


def test_a_passage_gets_the_same_personas_alone_and_among_others_and_whatever_the_lists_order(tmp_path: Path) -> None:
    config = PersonasConfig(num_personas=3)
    search = build_persona_search(config)
    texts = [REEF, "珊瑚礁在海水变暖时会白化。", "{{ }} \x00 🙂", "the of and"]
    found = search.nearest(texts)
    assert found == [search.nearest([text])[0] for text in texts]
    assert search.nearest([]) == []
    assert all(len(set(row)) == 3 for row in found)
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(STARTER_PERSONAS.read_text().splitlines()[::-1]))
    config.path = str(turned)
    assert set(build_persona_search(config).nearest([REEF])[0]) == set(found[0])


def test_no_persona_is_offered_too_often_where_all_passages_are_alike() -> None:
    """Each draw is independent, so five standard deviations around the share bound it."""
    texts = [f"{REEF} Reef number {number}." for number in range(400)]
    nearest = Counter(persona for row in build_persona_search(NEAREST).nearest(texts) for persona in row)
    assert max(nearest.values()) == 400, "without a cap, one persona is offered for all"
    for share in (0.1, 0.25):
        found = build_persona_search(PersonasConfig(max_share=share)).nearest(texts)
        most = max(Counter(persona for row in found for persona in row).values())
        assert most < 400 * share + 5 * (400 * share * (1 - share)) ** 0.5


def test_passages_that_nothing_is_near_to_get_different_personas() -> None:
    search = build_persona_search(PersonasConfig())
    found = search.nearest([f"xyzzy {number}" for number in range(30)])
    assert len({persona for row in found for persona in row}) > 60


def test_a_sparse_cosine_equals_the_dense_one() -> None:
    rows = [{"wa": 1.0, "wb": 2.0}, {"wb": 1.0}, {"wc": 3.0, "wa": 0.5}, {"wd": 1.0}]
    names = sorted({name for row in rows for name in row})
    held = {name: sum(name in row for row in rows) for name in names}
    rarity = np.array([np.log(1 + len(rows) / held[name]) for name in names])
    dense = np.array([[row.get(name, 0.0) for name in names] for row in rows]) * rarity
    query = {"wa": 1.0, "wb": 1.0, "unknown": 9.0}
    asked = np.array([query.get(name, 0.0) for name in names]) * rarity
    cosines = dense @ asked / np.linalg.norm(dense, axis=1) / np.linalg.norm(asked)
    found, scores = SparseIndex(rows).nearest(query, 3)
    assert found == np.argsort(-cosines)[:3].tolist()
    np.testing.assert_allclose(scores, np.sort(cosines)[::-1][:3], atol=1e-12)
    assert SparseIndex(rows).nearest({"unknown": 1.0}, 3) == ([], [])


def test_cells_find_most_of_what_comparing_with_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustered vectors, as embeddings are: at least nine of ten, and the same each time."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(60, 16))
    rows = centres[generator.integers(0, 60, 3000)] + 0.4 * generator.normal(size=(3000, 16))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    monkeypatch.setattr(module, "_EXACT", 1000)
    queries = rows[:50]
    found, expected = DenseIndex(rows).nearest(queries, 10), nearest_rows(queries, rows, 10)
    shared = [len(set(one) & set(other)) for one, other in zip(found, expected, strict=True)]
    assert sum(shared) >= 450
    assert (found[:, 0] == np.arange(50)).all()
    np.testing.assert_array_equal(DenseIndex(rows).nearest(queries, 10), found)


def test_each_word_of_the_subjects_is_in_one_script() -> None:
    def script(character: str) -> str:
        name = unicodedata.name(character).split()[0].partition("-")[0]
        return "CJK" if name in ("HIRAGANA", "KATAKANA") else name

    for word in subjects._subjects():
        assert len({script(character) for character in word if character.isalpha()}) == 1, word


def test_nearest_rows_equals_sorting_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, also where a block has fewer rows than are asked for."""
    generator = np.random.default_rng(0)
    queries, rows = (generator.normal(size=size).astype(np.float32) for size in ((7, 8), (101, 8)))
    expected = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :5]
    for size in (2, 3, 50, 100, 1000):
        monkeypatch.setattr(module, "_ROWS_PER_BLOCK", size)
        np.testing.assert_array_equal(nearest_rows(queries, rows, 5), expected)


def test_an_embedding_model_finds_a_persona_by_its_own_words(tiny_qwen3: Path, tmp_path: Path) -> None:
    """Any directory that sentence-transformers opens; here a random model, to which a text is nearest to itself."""
    pytest.importorskip("sentence_transformers")
    search = build_persona_search(PersonasConfig(model=str(tiny_qwen3), num_personas=2, max_share=1.0, device="cpu"))
    own = load_personas(STARTER_PERSONAS)[17]
    assert search.nearest([own])[0][0] == own
    prompted = build_persona_search(PersonasConfig(model=str(tiny_qwen3), passage_prompt="Find: "))
    assert len(prompted.nearest(["A b."])[0]) == 5
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


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="max_share"):
        PersonasConfig(max_share=0.0)


def test_too_few_personas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "personas.jsonl"
    path.write_text('{"persona": "A potter."}\n{"persona": "A  potter."}\n')
    with pytest.raises(ValueError, match="num_personas=5"):
        build_persona_search(PersonasConfig(path=str(path)))
    with pytest.raises(FileNotFoundError, match="no such persona file"):
        load_personas(tmp_path / "absent.jsonl")
