"""What adding costs beside the embedding that it cannot do without; `benchmarks/rag.py` runs it.

The embedder alone gets the very texts that are embedded, half of them before the documents are added and half afterwards.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import Result
from kosent.embedders import DEFAULT, Embedder
from kosent.rag import adding
from kosent.rag.collection import Collection
from rag_data import SEED, sentences, texts

DOCUMENTS, SLOW_DOCUMENTS = 10_000, 1000
"""With the default embedder, and with the others."""
LEAST, MOST, AT_ONCE = 40, 100, 128


@contextmanager
def a_home() -> Iterator[Path]:
    """A KOSENT_HOME that holds nothing, for the block."""
    before = os.environ.get("KOSENT_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KOSENT_HOME"] = f"{folder}/home"
        try:
            yield Path(folder)
        finally:
            os.environ.pop("KOSENT_HOME")
            if before is not None:
                os.environ["KOSENT_HOME"] = before


def seconds(embedder: Embedder, embedded: Sequence[str]) -> float:
    began = time.perf_counter()
    for start in range(0, len(embedded), AT_ONCE):
        embedder.passages(embedded[start : start + AT_ONCE])
    return time.perf_counter() - began


def added(name: str, number: int, pool: list[str]) -> list[Result]:
    documents = list(texts(pool, number, LEAST, MOST))
    with a_home() as folder:
        (folder / "메모").mkdir()
        titles = [f"메모 {place:05}" for place in range(number)]
        for title, text in zip(titles, documents, strict=True):
            (folder / "메모" / f"{title}.txt").write_text(f"{text}\n", encoding="utf-8")
        collection = Collection.create("메모", embedder_name=name)
        embedded = [f"{title}\n{text}" for title, text in zip(titles, documents, strict=True)]
        random.Random(SEED).shuffle(embedded)
        seconds(collection.embedder, embedded[:AT_ONCE])
        alone = seconds(collection.embedder, embedded[: number // 2])
        began = time.perf_counter()
        summary = adding.add(collection, [str(folder / "메모")])
        took = time.perf_counter() - began
        alone += seconds(collection.embedder, embedded[number // 2 :])
        collection.close()
    speed, bare = len(summary.added) / took, number / alone
    ratio, slow = speed / bare, bare < 250
    whole, enough = len(summary.added) == number, slow or speed >= 200
    return [
        Result(f"{name}: {number:,} documents added", round(speed, 1), "documents/s", "" if slow else ">= 200", enough),
        Result(f"{name}: the embedder alone", round(bare, 1), "texts/s", "", True),
        Result(
            f"{name}: adding / the embedder alone", round(ratio, 2), "ratio", ">= 0.8" if slow else "", not slow or ratio >= 0.8
        ),
        Result(f"{name}: documents that were added", len(summary.added), "documents", f"{number}", whole),
    ]


def adding_speed(embedders: Sequence[str], corpus: Path | None, documents: int) -> list[Result]:
    pool, fewer = sentences(corpus), min(documents, SLOW_DOCUMENTS)
    return [row for name in embedders for row in added(name, documents if name == DEFAULT else fewer, pool)]
