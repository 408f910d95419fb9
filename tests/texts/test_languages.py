"""A text is told in its language, or as undetermined; the texts of one source decide together."""

import pytest

from qwen3emb_train.texts.languages import LanguageConfig, LanguageIdentifier, LanguageJudge

pytest.importorskip("py3langid", reason="py3langid is not installed (extra mine)")

TEXTS = {
    "uk": "Насос запускається, коли вода у колодязі підніметься до верхнього поплавка.",
    "sv": "Pumpen startar när vattnet i brunnen har stigit till den övre flottören.",
    "cs": "Čerpadlo se spustí, jakmile voda v jímce vystoupí k hornímu plováku.",
    "da": "Pumpen starter, når vandet i brønden er steget til den øverste svømmer.",
    "fi": "Pumppu käynnistyy, kun vesi kaivossa on noussut ylempään kohoon asti.",
    "hu": "A szivattyú elindul, amikor a víz az aknában eléri a felső úszót.",
    "pl": "Pompa włącza się, gdy woda w studzience podniesie się do górnego pływaka.",
    "bg": "Помпата се включва, когато водата в шахтата се покачи до горния поплавък.",
    "fa": "پمپ زمانی روشن می‌شود که آب در چاهک تا شناور بالایی بالا بیاید.",
    "ur": "پمپ اس وقت چلتا ہے جب گڑھے میں پانی اوپر والے فلوٹ تک پہنچ جاتا ہے۔",
    "mr": "खड्ड्यातील पाणी वरच्या फ्लोटपर्यंत पोहोचल्यावर पंप सुरू होतो.",
    "en": "The pump starts when the water in the sump has risen to the upper float.",
    "zh": "当水位上升到上浮子时水泵启动，下降到下浮子时停止。",
}
IDENTIFIER = LanguageIdentifier()


@pytest.mark.parametrize("code", TEXTS)
def test_languages_beyond_the_widespread_ones_are_told(code: str) -> None:
    assert IDENTIFIER.detect(TEXTS[code]) == code


@pytest.mark.parametrize("text", ["", "42", "== 3.5 ==", "x1 = f(y2)"])
def test_what_has_no_language_is_undetermined(text: str) -> None:
    assert IDENTIFIER.detect(text) == "und"


def test_code_in_a_fence_does_not_count() -> None:
    code = "```python\n" + "def start(self, value):\n    return self.value if value else None\n" * 9 + "```\n"
    assert IDENTIFIER.detect(code + TEXTS["fi"]) == "fi"


def test_short_texts_of_one_source_vote_and_a_sure_one_stays_what_it_is() -> None:
    short = "Åpne innstillinger"
    norwegian = [
        f"Pumpen starter når vannet i brønnen har steget til den øvre flottøren, nummer {n}." for n in range(9)
    ]
    assert IDENTIFIER.detect_all([*norwegian, short, TEXTS["uk"]]) == ["no"] * 10 + ["uk"]
    assert IDENTIFIER.detect_all([TEXTS["da"]] * 9 + ["Pumpen starter"])[-1] == "da"


def test_near_languages_are_not_held_against_a_text() -> None:
    judge = LanguageJudge(LanguageConfig())
    croatian = "Pumpa se pokreće kada se voda u jami podigne do gornjeg plovka, a staje kod donjeg."
    assert all(judge.other_language(croatian, code) is None for code in ("hr", "bs", "sr"))
    found = judge.other_language(croatian, "de")
    assert found is not None
    assert found[0] in ("hr", "bs", "sr")
    assert judge.other_language(croatian, "tlh") is None
