"""The fresh process that `benchmarks/rag.py` measures: it opens a collection and asks the questions that it is given.

`python rag_child.py NAME own|same`: a JSON list of questions on standard input, a JSON object on standard output. `own` analyses
in a process of its own that starts beside the opening, as the chat does; `same` in this one, after it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()


def peak(process: int | str = "self") -> float:
    """GB that were resident at most (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def main(name: str, own: bool, questions: list[str]) -> dict[str, object]:
    from kosent.morphemes import MorphemeProcess, shared

    analyser = MorphemeProcess() if own else None
    from kosent.rag.collection import Collection
    from kosent.rag.retriever import HybridRetriever

    imported = time.perf_counter() - BEGAN
    collection = Collection.open(name)
    vector = collection.embedder.questions(["처음"])[0]
    with collection.look() as (index, vectors):
        count = index.counts()[1]
        vectors.nearest(vector, 1)  # Chroma reads its vectors for the first question
    opened = time.perf_counter() - BEGAN
    began = time.perf_counter()
    (analyser or shared()).content(["처음"])
    analysing = time.perf_counter() - (BEGAN if own else began)
    retriever = HybridRetriever(collection=collection, analyser=analyser)
    times = []
    for question in questions:
        began = time.perf_counter()
        retriever.invoke(question)
        times.append(1000 * (time.perf_counter() - began))
    found = {"chunks": count, "imported": imported, "opened": opened, "analysing": analysing, "times": times}
    found |= {"memory": peak(), "analyser_memory": peak(analyser._process.pid) if analyser else 0.0}
    if analyser:
        analyser.close()
    collection.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "own", json.load(sys.stdin))))
