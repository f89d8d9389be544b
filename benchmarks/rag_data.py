"""What the retrieval benchmark reads: passages and questions, everyday sentences, real Korean sentences in any number."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kosent import morphemes
from kosent.rag import splitting
from kosent.starter import corpus_path

DATA = Path(__file__).resolve().parent / "data"
SEED = 7
ADDED_AS = repr((splitting.NAME, sorted(morphemes.CONTENT), sorted(morphemes.EMPTY)))
"""Collections that were added in another way are made again."""


@dataclass(frozen=True)
class Question:
    text: str
    kind: str
    """"direct" or "paraphrase", as its author meant it."""
    passage: str
    """The id of the passage that answers it."""


@dataclass(frozen=True)
class Passage:
    id: str
    title: str
    text: str
    questions: tuple[Question, ...]

    @property
    def theme(self) -> str:
        return self.id.rpartition("-")[0]


def passages(per_theme: int = 0) -> list[Passage]:
    """Of each theme the first so many, 0 for all."""
    found: dict[str, list[Passage]] = {}
    for line in (DATA / "korean_passages.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        questions = tuple(Question(one["text"], one["kind"], row["id"]) for one in row["questions"])
        passage = Passage(row["id"], row["title"], row["text"], questions)
        found.setdefault(passage.theme, []).append(passage)
    return [passage for theme in found.values() for passage in theme[: per_theme or None]]


def as_files(found: Sequence[Passage], folder: Path) -> dict[str, str]:
    """One text file for each, called as its title, in a folder of its own: file -> id."""
    names = {}
    for passage in found:
        path = folder / passage.id / f"{passage.title}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{passage.text}\n", encoding="utf-8")
        names[str(path)] = passage.id
    return names


def everyday(number: int) -> list[str]:
    rows = (DATA / "everyday_songys.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return random.Random(SEED).sample([row.split("\t")[-1] for row in rows], number)


def sentences(corpus: Path | None) -> list[str]:
    """Of ChatbotData.csv (questions and answers) where it is given, of the passages, and of the starter corpus; each once."""
    found = [text for passage in passages() for text in re.split(r"(?<=[.!?])\s+", passage.text)]
    with corpus_path().open(encoding="cp949", newline="") as file:
        found += [text for row in csv.DictReader(file) for name, text in row.items() if text and name[:2] in ("사람", "시스")]
    if corpus is not None:
        with corpus.open(encoding="utf-8", newline="") as file:
            found += [row[name] for row in csv.DictReader(file) for name in "QA"]
    return list(dict.fromkeys(filter(None, map(str.strip, found))))


def texts(pool: list[str], number: int, least: int, most: int) -> Iterator[str]:
    """So many texts, their lengths evenly spread between the two: sentences of the pool in an order that is always the same;
    all are used before one is used again."""
    draw, order = random.Random(SEED), list[str]()
    for _ in range(number):
        length, parts = draw.randint(least, most), list[str]()
        while sum(map(len, parts)) + len(parts) <= length - 8:
            if not order:
                order = draw.sample(pool, len(pool))
            parts.append(order.pop())
        yield " ".join(parts)[:most]
