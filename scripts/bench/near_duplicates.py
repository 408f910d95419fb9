"""Near-duplicates on disk beside the index in memory: seconds and peak memory at growing numbers of texts.

    python scripts/bench/near_duplicates.py                                # 30,000 and 100,000 texts
    python scripts/bench/near_duplicates.py --texts 100000 300000 --only disk

Texts are some 60 made-up words out of 20,000; one in ten is an earlier one with a few words changed. Each run
is its own process and reads its peak resident memory above that before the first text. The numbers of texts kept are
compared. The last line is a JSON object; the headline is the growth of memory on disk from the smallest number of texts
to the largest.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

WAYS = ("disk", "memory")
THRESHOLD = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[30_000, 100_000])
    parser.add_argument("--only", choices=WAYS, nargs="*", default=list(WAYS))
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.texts[0])
        return
    figures: dict[str, dict[int, dict[str, float]]] = {way: {} for way in arguments.only}
    print(f"{'':<10}{'texts':>10}{'kept':>10}{'seconds':>10}{'us a text':>11}{'MB above the start':>20}")
    for number in arguments.texts:
        for way in arguments.only:
            command = [sys.executable, __file__, "--run", way, "--texts", str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = figures[way][number] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{way:<10}{number:>10}{found['kept']:>10}{found['seconds']:>10.1f}"
                f"{found['seconds'] / number * 1e6:>11.0f}{found['mb']:>20.1f}",
                flush=True,
            )
        assert len({figures[way][number]["kept"] for way in arguments.only}) == 1, "the two ways keep other texts"
    disk = [figures.get("disk", {}).get(number, {}).get("mb") for number in (arguments.texts[0], arguments.texts[-1])]
    headline = round(disk[1] / disk[0], 3) if disk[0] and disk[1] else None
    print(json.dumps({"benchmark": "near_duplicates", "headline": headline, "figures": figures}))


def texts(number: int) -> Iterator[str]:
    """Drawn text by text, so that they take no memory; what is repeated is among the last thousand."""
    draw, last = random.Random(0), list[str]()
    known = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randrange(4, 10))) for _ in range(20_000)]
    for _ in range(number):
        if last and draw.random() < 0.1:
            words = draw.choice(last).split()
            for _ in range(draw.randrange(3)):
                words[draw.randrange(len(words))] = draw.choice(known)
        else:
            words = draw.choices(known, k=draw.randrange(40, 80))
        text = " ".join(words)
        last = [*last[-999:], text] if draw.random() < 0.5 else last
        yield text


def run(way: str, number: int) -> None:
    """In the child process: prints seconds, texts kept, and MB above the start."""
    from qwen3emb_train.texts.near_duplicates import FirstOnes, match
    from qwen3emb_train.texts.overlap import ComparedText, NearDuplicateIndex
    from qwen3emb_train.texts.sketches import Sketches, SketchWriter

    _ = ComparedText("a b c").minhash  # what is imported at first use
    start, before, kept = time.perf_counter(), peak_mb(), 0
    if way == "memory":
        index = NearDuplicateIndex(THRESHOLD)
        for text in texts(number):
            compared = ComparedText(text)
            if not index.near(compared):
                index.add(compared)
                kept += 1
    else:
        with tempfile.TemporaryDirectory() as work:
            (part := Path(work) / "part").mkdir()
            writer = SketchWriter(part, THRESHOLD)
            for count, text in enumerate(texts(number)):
                writer.add(ComparedText(text), str(count))
            writer.close()
            sketches = Sketches([part], THRESHOLD)
            first = FirstOnes(sketches, match(sketches, Path(work)))
            kept = sum(first.offer(count) is None for count in range(number))
    print(json.dumps({"kept": kept, "seconds": time.perf_counter() - start, "mb": peak_mb() - before}))


def peak_mb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
