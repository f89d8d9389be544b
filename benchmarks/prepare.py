"""How fast `kosent prepare` is and how much memory it takes, with every rule on, against synthetic AI Hub-shaped corpora.

    .venv/bin/python benchmarks/prepare.py

51,630 dialogues (the size of the corpus that KoSent began with) and ten times as many, as CSV in cp949 with two or three turns a
row. Words and their frequencies are those of the starter corpus; sentences are put together by chance, and 5 % of the rows get
faults: of the text, duplicates, near duplicates, shared questions, one persona sentence. Lengths are counted in tokens of the
starter base. The files and what is made of them (1.5 GB) go into a temporary folder. About 10 minutes on two processor cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import Result, report
from kosent.finetune.corpus import open_corpus

DIALOGUES = 51_630
EMOTIONS = ("기쁨", "당황", "분노", "불안", "상처", "슬픔")
AGES = ("청소년", "청년", "중년", "노년")
MEASURE = """
import resource, sys
from kosent.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def write_corpus(file: Path, dialogues: int) -> None:
    chance = random.Random(42)
    said = [message["content"] for record in open_corpus("starter").records() for message in record.messages]
    words = [word for text in said for word in text.split()]
    lengths = [len(text.split()) for text in said]
    faults: tuple[Callable[[str], str], ...] = (
        lambda text: "",
        lambda text: f"{text} とても",
        lambda text: " ".join([text] * 6),
        lambda text: f"{text} 010-1234-5678",
        lambda text: f"{text} {'ㅋ' * 40}",
        lambda text: "Please tell me more about how you feel now.",
    )

    def sentence() -> str:
        return " ".join(chance.choices(words, k=chance.choice(lengths)))

    earlier: list[list[str]] = []
    with file.open("w", encoding="cp949", errors="ignore", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["연령", "감정_대분류", *(f"{who}문장{n}" for n in (1, 2, 3) for who in ("사람", "시스템"))])
        for _ in range(dialogues):
            turns = [sentence() for _ in range(chance.choice((4, 6, 6)))]
            kind = chance.random()
            if kind < 0.02:
                turns[1] = chance.choice(faults)(turns[1])
            elif kind < 0.03 and earlier:
                turns = chance.choice(earlier)
            elif kind < 0.035 and earlier:
                turns = [*(repeated := chance.choice(earlier))[:-1], f"{repeated[-1]} {chance.choice(words)}"]
            elif kind < 0.04 and earlier:
                turns[0] = chance.choice(earlier)[0]
            elif kind < 0.055:
                turns[1] = "저는 AI 챗봇이라 감정을 느낄 수 없습니다."
            elif len(earlier) < 1000:
                earlier.append(turns)
            writer.writerow([chance.choice(AGES), chance.choice(EMOTIONS), *turns])


def measure(folder: Path, dialogues: int) -> tuple[float, float, dict[str, int]]:
    """Seconds, peak resident memory in GB, and what each rule did."""
    corpus, output = folder / f"corpus-{dialogues}.csv", folder / f"data-{dialogues}"
    write_corpus(corpus, dialogues)
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURE, "prepare", str(corpus), "--output", str(output), "--tokenizer", "starter"]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    rules = json.loads((output / "report.json").read_text(encoding="utf-8"))["rules"]
    return seconds, int(done.stderr.split()[-1]) / 1e6, {rule["name"]: rule["rejected"] + rule["changed"] for rule in rules}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="the smaller corpus alone")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        seconds, memory, acted = measure(Path(folder), DIALOGUES)
        print(f"what the rules did: {acted}", file=sys.stderr)
        results += [
            Result(f"{DIALOGUES:,} dialogues", round(seconds, 1), "s", "<= 60", seconds <= 60),
            Result("speed", round(DIALOGUES / seconds), "dialogues/s", "", True),
            Result("peak memory", round(memory, 2), "GB", "<= 1.5", memory <= 1.5),
        ]
        if not args.once:
            large, memory, _ = measure(Path(folder), 10 * DIALOGUES)
            results += [
                Result(f"{10 * DIALOGUES:,} dialogues", round(large, 1), "s", "", True),
                Result("times as long", round(large / seconds, 2), "x", "<= 12", large <= 12 * seconds),
                Result("speed, large", round(10 * DIALOGUES / large), "dialogues/s", "", True),
                Result("peak memory, large", round(memory, 2), "GB", "<= 2.5", memory <= 2.5),
            ]
    report("prepare", results)


if __name__ == "__main__":
    main()
