"""A length that is asked for in a language's own unit is the length that is counted afterwards."""

import pytest

from data_synth.languages import count_words, length_phrase


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("how do corals survive warm water?", 6),
        ("Größe der L'Hôpital-Straße", 5),
        ("珊瑚礁为什么会白化", 4),  # 9 characters
        ("使用 Python 写 的 脚本", 4),
        ("サンゴ礁はなぜ白化するのか", 6),  # 13 characters
        ("ทำไมปะการังจึงฟอกขาว", 6),  # 20 signs, 2 of them marks
        ("តើផ្កាថ្មប្រែជាពណ៌សយ៉ាងដូចម្តេច", 6),
        ("သန္တာကျောက်တန်းများ ဘာကြောင့်", 4),
        ("왜 산호초가 하얗게 변합니까", 4),
        ("प्रवाल भित्तियाँ सफेद क्यों होती हैं", 6),
        ("", 0),
    ],
)
def test_words_are_counted_in_scripts_with_and_without_spaces(text: str, num: int) -> None:
    assert count_words(text) == num


def test_vowel_signs_and_tone_marks_do_not_count() -> None:
    assert count_words("กกกกกก") == count_words("กี่กี่กี่กี่กี่กี่") == 2


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "5 to 10 words"), ("ko", "5 to 10 words"), ("zh-Hant", "10 to 20 characters"),
        *((code, "15 to 30 characters (vowel and tone marks not counted)") for code in ("th", "km", "my", "lo", "bo")),
    ],
)  # fmt: skip
def test_lengths_are_told_in_the_unit_of_the_language(language: str, told: str) -> None:
    assert length_phrase("5-10", language) == told
