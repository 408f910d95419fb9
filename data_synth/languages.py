"""Names of languages and units of length for prompts."""

import re
import unicodedata

from qwen3emb_train.texts.words import words

LANGUAGES = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani", "be": "Belarusian",
    "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "br": "Breton", "bs": "Bosnian", "ca": "Catalan",
    "ceb": "Cebuano", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fil": "Filipino", "fo": "Faroese", "fr": "French", "fy": "Western Frisian", "ga": "Irish",
    "gd": "Scottish Gaelic", "gl": "Galician", "gu": "Gujarati", "ha": "Hausa", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "ig": "Igbo",
    "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh",
    "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish", "ky": "Kyrgyz", "la": "Latin",
    "lb": "Luxembourgish", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mi": "Maori",
    "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese",
    "my": "Burmese", "nb": "Norwegian Bokmal", "ne": "Nepali", "nl": "Dutch", "nn": "Norwegian Nynorsk",
    "no": "Norwegian", "oc": "Occitan", "or": "Odia", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda", "sa": "Sanskrit", "sd": "Sindhi",
    "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "so": "Somali", "sq": "Albanian", "sr": "Serbian",
    "su": "Sundanese", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai",
    "tk": "Turkmen", "tl": "Tagalog", "tr": "Turkish", "tt": "Tatar", "ug": "Uyghur", "uk": "Ukrainian",
    "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "xh": "Xhosa", "yi": "Yiddish", "yo": "Yoruba",
    "yue": "Cantonese", "zh": "Chinese", "zh-hans": "Simplified Chinese", "zh-hant": "Traditional Chinese",
    "zu": "Zulu", "lg": "Ganda", "sn": "Shona", "st": "Sotho",
}  # fmt: skip
"""Language code -> English name, as in the report's prompts."""

# Languages written without spaces: characters of a word, roughly. Vowel signs and tone marks of Thai, Lao, Khmer,
# Burmese and Tibetan are not counted, as they stand above or below a character.
_CHARACTERS_PER_WORD = {"zh": 2, "yue": 2, "ja": 2, "th": 3, "lo": 3, "km": 3, "my": 3, "bo": 3}
_HAN_OR_KANA = re.compile("[\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def check_languages(codes: object, key: str) -> None:
    """Checks that all language codes are known.

    Raises:
        ValueError: one is not; names the key and the code.
    """
    unknown = [code for code in codes if code not in LANGUAGES]  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(f"{key}: unknown language code {unknown[0]!r}. Known are {', '.join(LANGUAGES)}.")


def language_name(code: str) -> str:
    """The English name; "the language of the passage" if the code is unknown ("")."""
    normal = code.lower().replace("_", "-")
    return LANGUAGES.get(normal) or LANGUAGES.get(primary_language(code)) or "the language of the passage"


def primary_language(code: str) -> str:
    """ "zh" of "zh-Hant", "pt" of "pt_BR"."""
    return code.lower().replace("_", "-").partition("-")[0]


def length_phrase(bucket: str, language: str) -> str:
    """A length for prompts in the unit of the language: for "5-10", "5 to 10 words" or "10 to 20 characters"."""
    low, high = bucket_bounds(bucket, "length")
    size = _CHARACTERS_PER_WORD.get(primary_language(language))
    if size is None:
        return f"{low} to {high} words"
    told = "" if size == 2 else " (vowel and tone marks not counted)"
    return f"{low * size} to {high * size} characters{told}"


def count_words(text: str) -> int:
    """The number of words; of scripts without spaces, what their characters come to. Undoes ``length_phrase``."""
    whole, characters, stacked = 0, 0, 0
    for word in words(text):
        if len(word) == 1 and _HAN_OR_KANA.match(word):
            characters += 1
        elif "\u0e00" <= word[0] < "\u10a0" or "\u1780" <= word[0] < "\u1800":
            stacked += sum(unicodedata.category(sign) not in ("Mn", "Mc") for sign in word)
        else:
            whole += 1
    return whole + round(characters / 2 + stacked / 3)


def bucket_bounds(bucket: str, key: str) -> tuple[int, int]:
    """Smallest and largest number of words of a bucket.

    Raises:
        ValueError: the bucket is not of the form "5-10"; names the key.
    """
    low, dash, high = bucket.partition("-")
    is_range = dash and low.isascii() and low.isdigit() and high.isascii() and high.isdigit()
    if not is_range or not 1 <= int(low) <= int(high):
        raise ValueError(f'{key}: {bucket!r} is not a range of words. Write for instance "5-10".')
    return int(low), int(high)
