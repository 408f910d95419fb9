"""Texts for comparing an export with its model: fifty, in ten languages and code."""

_BY_LANGUAGE = {
    "en": (
        "What is the capital of China?",
        "The capital of China is Beijing.",
        "Gravity pulls two bodies towards each other and gives weight to physical objects.",
        "Boil the eggs for seven minutes, then cool them under running water.",
        "In 1969 two people walked on the Moon; 12 had done so by the end of 1972.",
        "She didn't know whether they'd arrive before 10:30 a.m. or after.",
        "A", "the quick brown fox", "Refund policy: items may be returned within 30 days (unused, with receipt).",
    ),
    "de": (
        "Wie hoch ist der Berg, und wie lange dauert der Weg zum Gipfel?",
        "Die Straßenbahn fährt alle zehn Minuten vom Bahnhof zum Schloss.",
        "Übermorgen wird es kälter, und oberhalb von 800 Metern fällt Schnee.",
        "Der Vertrag verlängert sich um ein Jahr, wenn er nicht gekündigt wird.",
        "Größenänderungen müssen vor dem 3. März angemeldet werden.",
    ),
    "fr": (
        "Où se trouve la bibliothèque la plus proche ?",
        "Le chat dort sur le canapé pendant que la pluie tombe.",
        "L'été dernier, nous avons traversé les Alpes à vélo en neuf jours.",
        "Cœur, naïveté, garçon : les accents comptent.",
        "Le taux d'intérêt a baissé de 0,25 point.",
    ),
    "es": (
        "¿Cuántos habitantes tiene Madrid?",
        "El niño comió una manzana y salió a jugar al jardín.",
        "La reunión se aplazó hasta el próximo miércoles a las nueve.",
        "¡Qué día tan caluroso! Necesitamos agua.",
    ),
    "zh": (
        "中国的首都是哪里?",
        "重力是物体之间的相互吸引。",
        "请在七天之内把书还给图书馆。",
        "今天的气温是三十二度,湿度很高。",
        "他学习了三年的法语,现在可以流利地交谈。",
    ),
    "ja": (
        "東京から京都まで新幹線で二時間十五分かかります。",
        "この薬は一日三回、食後に飲んでください。",
        "図書館は月曜日に休みです。",
        "カタカナとひらがなの違いは何ですか。",
    ),
    "ru": (
        "Сколько стоит билет до Санкт-Петербурга?",
        "Вода кипит при температуре сто градусов.",
        "Книга лежит на столе рядом с окном.",
        "Поезд отправляется в 18:45 с третьего пути.",
    ),
    "ar": ("ما هي عاصمة مصر؟", "يبدأ الدرس في الساعة التاسعة صباحا.", "الكتاب على الطاولة."),
    "el": ("Το νερό βράζει στους εκατό βαθμούς.", "Πού είναι το μουσείο;"),
    "hi": ("दिल्ली भारत की राजधानी है।", "यह पुस्तक बहुत रोचक है।"),
    "code": (
        "def add(a, b):\n    return a + b",
        "for index, (name, value) in enumerate(sorted(table.items())):\n\tprint(f\"{index}: {name}={value!r}\")",
        "SELECT name, COUNT(*) FROM orders WHERE total >= 100 GROUP BY name;",
        "import numpy as np\n\nx = np.linspace(0.0, 1.0, 11)  # eleven points\n",
        "Return the number of non-overlapping occurrences of substring sub in the range [start, end].",
        "https://example.org/a?b=1&c=%20 🙂🚀 \t  trailing spaces  ",
        "git commit -m 'fix: off-by-one' && git push --force-with-lease",
    ),
}  # fmt: skip

REAL_TEXTS: tuple[str, ...] = tuple(text for texts in _BY_LANGUAGE.values() for text in texts)

_SHORT_TEXTS = (
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "a",
    "Wie hoch ist der Berg, und wie lange dauert der Weg zum Gipfel?",
    "重力是物体之间的相互吸引。",
    "Το νερό βράζει στους εκατό βαθμούς.",
    "def add(a, b):\n    return a + b",
    "ما هي عاصمة مصر؟ 🙂",
)
# Few, since each is encoded about fifteen times; the last one is long, so that the others get much padding.
SAMPLE_TEXTS = (*_SHORT_TEXTS, " ".join(_SHORT_TEXTS * 12))
