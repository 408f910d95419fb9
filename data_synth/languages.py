"""Names of languages and units of length for prompts."""

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

_UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})
_CHARACTERS_PER_WORD = 2  # of the scripts above, roughly


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
    if primary_language(language) in _UNSPACED:
        return f"{low * _CHARACTERS_PER_WORD} to {high * _CHARACTERS_PER_WORD} characters"
    return f"{low} to {high} words"


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
