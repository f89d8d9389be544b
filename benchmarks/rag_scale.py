"""A collection of 100,000 chunks, and processes that open it and ask; `benchmarks/rag.py` runs it.

The chunks are about 300 characters of real sentences, ten to a document, with their real morphemes. Their vectors are mixtures of
two real ones of the default embedder, with noise, and not embedded one by one: that would take an hour or two on two cores.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Result
from kosent.embedders import embedder
from kosent.morphemes import Morphemes
from kosent.rag.collection import Collection
from kosent.rag.keyword_index import Entry
from kosent.rag.splitting import Chunk
from kosent.rag.stored import Prepared, document_key, searched_text
from rag_data import ADDED_AS, SEED, Question, passages, sentences, texts
from rag_generating import generating

if TYPE_CHECKING:
    import numpy as np

CHUNKS, IN_DOCUMENT, AT_ONCE = 100_000, 10, 200
"""Chunks in all, in a document; documents that are stored at once."""
LEAST, MOST = 250, 350
REAL, NOISE = 2000, 0.5
"""Real vectors; length of the noise beside a unit vector."""
QUESTIONS = 300
HERE = Path(__file__).resolve().parent


def built(chunks: int, corpus: Path | None) -> tuple[str, float]:
    """The collection's name in KOSENT_HOME, made if it is not there, and the seconds that storing took, 0 where it was there."""
    pool = sentences(corpus)
    recipe = [*pool, str((SEED, IN_DOCUMENT, LEAST, MOST, REAL, NOISE)), ADDED_AS]
    digest = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:8]
    name = f"크기 {chunks} {digest}"
    done = Path(os.environ["KOSENT_HOME"]) / f"{name}.done"
    if done.exists():
        return name, 0.0
    if name in Collection.names():
        Collection.open(name).delete()
    collection = Collection.create(name)
    stored = 0.0
    with collection.writer() as writer:
        ready = list[Prepared]()
        for number, document in enumerate(documents(pool, chunks), 1):
            ready.append(document)
            if len(ready) == AT_ONCE or number * IN_DOCUMENT >= chunks:
                began = time.perf_counter()
                writer.put(ready)
                stored += time.perf_counter() - began
                print(f"{number * IN_DOCUMENT:,} of {chunks:,} chunks", file=sys.stderr, flush=True)
                ready = []
    collection.close()
    done.touch()
    return name, stored


def documents(pool: list[str], chunks: int) -> Iterator[Prepared]:
    import numpy as np

    made = list(texts(pool, chunks, LEAST, MOST))
    analyser, draw = Morphemes(workers=2), np.random.default_rng(SEED)
    real = embedder().passages(made[:: max(1, chunks // REAL)][:REAL])
    for start in range(0, chunks, IN_DOCUMENT):
        parts = [Chunk(text, number, 0, len(text)) for number, text in enumerate(made[start : start + IN_DOCUMENT])]
        source = f"/기록/{start // IN_DOCUMENT:05}.txt"
        characters = sum(len(part.text) for part in parts)
        key, title = document_key(source, ""), f"{start // IN_DOCUMENT:05}"
        entry = Entry(key, source, title, "text", "", characters, 0.0, 0.0, len(parts), characters)
        morphemes = analyser.content([searched_text(entry, part) for part in parts])
        yield Prepared(entry, parts, _alike(real, len(parts), draw), morphemes)


def _alike(real: np.ndarray[Any, Any], number: int, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    import numpy as np

    share = draw.random((number, 1))
    mixed = share * real[draw.integers(len(real), size=number)] + (1 - share) * real[draw.integers(len(real), size=number)]
    noise = draw.standard_normal((number, real.shape[1]))
    found = mixed / np.linalg.norm(mixed, axis=1, keepdims=True) + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    unit: np.ndarray[Any, Any] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def asked(number: int) -> list[Question]:
    """Different questions, of all themes."""
    every = [question for passage in passages() for question in passage.questions]
    return random.Random(SEED).sample(every, number)


def child(name: str, analyser: str, questions: list[str]) -> dict[str, Any]:
    """What `rag_child.py` measures in a fresh process."""
    command = [sys.executable, str(HERE / "rag_child.py"), name, analyser]
    run = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, timeout=1200)
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def percentile(times: Sequence[float], share: float = 0.95) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def scale(chunks: int, number: int, corpus: Path | None, gguf: Path | None) -> list[Result]:
    name, stored = built(chunks, corpus)
    questions = [one.text for one in asked(number)]
    results = list[Result]()
    if stored:
        results.append(Result(f"{chunks:,} chunks stored, their analysis and embedding apart", round(stored), "s", "", True))
    load = "a model generates" if gguf else "a loop of numpy runs"
    for when in ("idle", load):
        for analyser in ("own", "same"):
            with nullcontext() if when == "idle" else generating(gguf):
                found = child(name, analyser, questions)
            assert found["chunks"] == chunks
            where = "analyser in a process of its own" if analyser == "own" else "analyser in the same process"
            results += _rows(f"{when}, {where}", found, goals=chunks == CHUNKS, alone=when == "idle" and analyser == "same")
    return results


def _rows(what: str, found: dict[str, Any], *, goals: bool, alone: bool) -> list[Result]:
    """`alone`: nothing else loads or computes while the collection is opened; that has the goal."""
    times, memory = found["times"], found["memory"] + found["analyser_memory"]
    rows = [
        ("opened, first search by meaning included", found["opened"], 2, "s", 3.0 if alone else None),
        ("of that, import of libraries", found["imported"], 2, "s", None),
        ("loading of the analyser", found["analysing"], 2, "s", None),
        (f"a question, median of {len(times)}", statistics.median(times), 1, "ms", 60.0),
        ("a question, p95", percentile(times), 1, "ms", 150.0),
        ("a question, slowest", max(times), 1, "ms", None),
        ("peak memory, all processes", memory, 2, "GB", 1.5),
        ("of that, the analyser's process", found["analyser_memory"], 2, "GB", None),
    ]
    results = []
    for name, value, digits, unit, goal in rows:
        said = f"<= {goal:g}" if goal and goals else ""
        if value:
            results.append(Result(f"{what}: {name}", round(value, digits), unit, said, not said or value <= goal))
    return results
