"""How many texts are told in the right language, alone and by the vote of their source, and how many a second.

    python scripts/bench/languages.py [--lingua]

60 texts of at least 60 characters for each of 20 languages, from the public sets help_ml and deb_desc_xl under
$QWEN3EMB_DATA.
``--lingua`` adds a column for lingua with the 16 languages that were told apart before (pip install
lingua-language-detector).
"""

import argparse
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from qwen3emb_train.texts.languages import LanguageIdentifier

SETS = {"help_ml": "positive", "deb_desc_xl": "query"}
BEFORE = "ar de en es fr hi id it ja ko nl pt ru tr vi zh"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lingua", action="store_true", help="compare with lingua")
    wants_lingua = parser.parse_args().lingua
    texts = _texts(Path(os.environ.get("QWEN3EMB_DATA", Path.home() / ".cache/qwen3emb-data")))
    identifier = LanguageIdentifier()
    identifier.detect("loads the model")
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "alone": lambda batch: [identifier.detect(text) for text in batch],
        "by vote": identifier.detect_all,
    }
    if wants_lingua:
        ways = {"lingua, 16": _lingua(), **ways}
    columns, speeds = {}, {}
    num = sum(map(len, texts.values()))
    for way, detect in ways.items():
        begin = time.process_time()
        found = {language: detect(batch) for language, batch in texts.items()}
        speeds[way] = num / (time.process_time() - begin)
        columns[way] = {language: told.count(language) / len(told) for language, told in found.items()}
    print("| language | texts |", " | ".join(ways), "|")
    print("|---|---|" + "---|" * len(ways))
    for language, batch in texts.items():
        print(f"| {language} | {len(batch)} |", " | ".join(f"{columns[way][language]:.2f}" for way in ways), "|")
    means = [sum(columns[way].values()) / len(texts) for way in ways]
    print(f"| mean | {num} |", " | ".join(f"**{mean:.3f}**" for mean in means), "|")
    print("| texts/s, one core | |", " | ".join(f"{speeds[way]:,.0f}" for way in ways), "|")


def _texts(root: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, column in SETS.items():
        with (root / name / "train.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if len(row[column]) >= 60:
                    found[row["task"].partition(":")[2][:2]].append(row[column])
    shuffled = random.Random(0)
    return {code: shuffled.sample(batch, min(60, len(batch))) for code, batch in sorted(found.items())}


def _lingua() -> Callable[[list[str]], list[str]]:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, code.upper()) for code in BEFORE.split()]
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()

    def detect(batch: list[str]) -> list[str]:
        best = [detector.compute_language_confidence_values(text[:1000])[0] for text in batch]
        return [one.language.iso_code_639_1.name.lower() if one.value >= 0.6 else "" for one in best]

    return detect


if __name__ == "__main__":
    main()
