"""Whether the right passage is found: by words, by meaning, by their fusion; `benchmarks/rag.py` runs it.

All is the product's own code: `adding.add` of one text file for each passage, called as its title as a user would call it,
`KeywordIndex.search`, `Vectors.nearest`, `HybridRetriever`. Vectors and morphemes of questions are computed once and remembered.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Result
from kosent.morphemes import shared
from kosent.rag import adding
from kosent.rag.collection import Collection
from kosent.rag.keyword_index import Entry, KeywordIndex
from kosent.rag.retriever import CANDIDATES, HybridRetriever
from kosent.rag.splitting import Chunk
from kosent.rag.stored import searched_text
from rag_data import ADDED_AS, Passage, Question, as_files, everyday
from rag_statistics import FUSION, MEASURES, Ranks, compact, compared

if TYPE_CHECKING:
    import numpy as np

EVERYDAY, FEW = 400, 1
"""Everyday sentences; morphemes that a question in other words shares with its passage at most."""
COVERAGES, WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6), (1.0, 2.0)
Search = Callable[[str], list[str]]
"""Passage ids for a question, best first, up to `CANDIDATES`."""


class Remembering:
    """An embedder or analyser that answers at once when it is asked again."""

    def __init__(self, one: Any) -> None:
        self._one, self._vectors, self._morphemes = one, dict[str, Any](), dict[str, list[str]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._one, name)

    def questions(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        import numpy as np

        for text in texts:
            if text not in self._vectors:
                self._vectors[text] = self._one.questions([text])[0]
        return np.stack([self._vectors[text] for text in texts])

    def content(self, texts: Sequence[str]) -> list[list[str]]:
        for text in texts:
            if text not in self._morphemes:
                self._morphemes[text] = self._one.content([text])[0]
        return [self._morphemes[text] for text in texts]


@dataclass(frozen=True)
class Measured:
    """Passages as a collection of one embedder, and what is asked of it."""

    passages: Sequence[Passage]
    collection: Collection
    analyser: Remembering
    names: dict[str, str]
    """Chunk -> passage."""

    @property
    def questions(self) -> list[Question]:
        return [question for passage in self.passages for question in passage.questions]

    def retrieved(self, **options: Any) -> Search:
        """By a `HybridRetriever` with these options."""
        retriever = HybridRetriever(collection=self.collection, analyser=self.analyser, **options)
        return lambda question: self._ids(one.metadata["chunk"] for one in retriever.invoke(question))

    def ranked(self, **options: Any) -> Search:
        """The same, nothing left out."""
        return self.retrieved(threshold=-1.0, k=CANDIDATES, budget=10**9, **options)

    def by_words(self, question: str) -> list[str]:
        with self.collection.look() as (index, _):
            return self._ids(name for name, _ in index.search(self.analyser.content([question])[0], CANDIDATES))

    def by_meaning(self, question: str) -> list[str]:
        vector = self.collection.embedder.questions([question])[0]
        with self.collection.look() as (_, vectors):
            return self._ids(name for name, _ in vectors.nearest(vector, CANDIDATES))

    def _ids(self, chunks: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(self.names[name] for name in chunks))


def measured(passages: Sequence[Passage], embedder_name: str, folder: Path) -> Measured:
    """Files and passages that an earlier run added are there already."""
    digest = hashlib.sha256(repr([ADDED_AS, *((one.id, one.title, one.text) for one in passages)]).encode()).hexdigest()[:8]
    files, name = as_files(passages, folder / digest), f"글 {embedder_name} {digest}"
    there = name in Collection.names()
    collection = Collection.open(name) if there else Collection.create(name, embedder_name=embedder_name)
    adding.add(collection, [*files])
    remembering: Any = Remembering(collection.embedder)
    collection.__dict__["embedder"] = remembering  # where `cached_property` keeps it
    with collection.look() as (index, _):
        names = {f"{one.key}:{number}": files[one.source] for one in index.documents() for number in range(one.chunks)}
    return Measured(passages, collection, Remembering(shared()), names)


def by_spaces(passages: Sequence[Passage], folder: Path) -> Search:
    """BM25 over words as they stand between spaces, the punctuation around them aside."""
    index = KeywordIndex(folder / "index.sqlite3")
    with index.transaction():
        for one in passages:
            entry = Entry(one.id, one.id, one.title, "text", "", 0, 0.0, 0.0, 1, len(one.text))
            index.add(entry, [_spaced(searched_text(entry, Chunk(one.text, 0, 0, len(one.text))))])
    return lambda question: [name.rpartition(":")[0] for name, _ in index.search(_spaced(question), CANDIDATES)]


def _spaced(text: str) -> list[str]:
    return [word for part in text.split() if (word := part.strip(".,!?…·\"'“”‘’()[]~:;–-"))]


def ranks(search: Search, questions: Sequence[Question]) -> Ranks:
    found = [search(question.text) for question in questions]
    return [ids.index(one.passage) + 1 if one.passage in ids else None for ids, one in zip(found, questions, strict=True)]


def in_other_words(one: Measured) -> list[bool]:
    """For each question whether it shares at most `FEW` content morphemes with its passage and the title."""
    found = []
    for passage in one.passages:
        held = set(one.analyser.content([f"{passage.title}\n{passage.text}"])[0])
        found += [len(held & set(one.analyser.content([question.text])[0])) <= FEW for question in passage.questions]
    return found


def quality(passages: Sequence[Passage], embedders: Sequence[str], folder: Path) -> list[Result]:
    results = list[Result]()
    for name in embedders:
        one = measured(passages, name, folder)
        questions, few = one.questions, in_other_words(one)
        with tempfile.TemporaryDirectory() as scratch:
            searches = {
                "dense": one.by_meaning,
                "BM25 words": by_spaces(passages, Path(scratch)),
                "BM25 Kiwi": one.by_words,
                "plain RRF": one.ranked(coverage=0.0, keyword_weight=1.0),
                FUSION: one.ranked(),
            }
            found = {system: ranks(search, questions) for system, search in searches.items()}
        apart = {True: f"{name}, at most {FEW} morpheme shared", False: f"{name}, more shared"}
        mine = compared(f"{name}, all", found, questions, range(len(questions)), goal=True)
        for share, what in apart.items():
            mine += compared(what, found, questions, [place for place, yes in enumerate(few) if yes == share])
        mine += cross_check(one, name, found)
        print(f"{compact(mine)}\n")
        results += mine
        one.collection.close()
    return results


def cross_check(one: Measured, name: str, found: dict[str, Ranks]) -> list[Result]:
    """Coverage and weight chosen by MRR on half of the themes and measured on the other half, both ways, taken together."""
    questions, settings = one.questions, [(coverage, weight) for coverage in COVERAGES for weight in WEIGHTS]
    grid = {(c, w): ranks(one.ranked(coverage=c, keyword_weight=w), questions) for c, w in settings}
    themes = sorted({passage.theme for passage in one.passages})
    theme_of = {passage.id: passage.theme for passage in one.passages}
    chosen: list[int | None] = [None] * len(questions)
    results = list[Result]()
    for half in (themes[:3], themes[3:]):
        inside = [theme_of[question.passage] in half for question in questions]

        def mrr(setting: tuple[float, float], inside: Sequence[bool] = inside) -> float:
            return sum(MEASURES["MRR"](rank) for rank, yes in zip(grid[setting], inside, strict=True) if yes)

        best = max(settings, key=mrr)
        where = f"{name}, chosen on {', '.join(half)}"
        results += [Result(f"{where}: coverage", best[0], "share", "", True)]
        results += [Result(f"{where}: weight of the words", best[1], "", "", True)]
        chosen = [old if yes else new for old, new, yes in zip(chosen, grid[best], inside, strict=True)]
    return results + compared(f"{name}, settings of the other themes", found | {FUSION: chosen}, questions, range(len(questions)))


def threshold(passages: Sequence[Passage], embedders: Sequence[str], folder: Path, number: int) -> list[Result]:
    """The retriever as it comes: what small talk brings along, and what questions still find."""
    results = list[Result]()
    for name in embedders:
        one = measured(passages, name, folder)
        search = one.retrieved()
        brought = [len(search(text)) for text in everyday(number)]
        results += [
            Result(
                f"{name}: everyday sentences that bring no passage", round(brought.count(0) / number, 3), f"of {number}", "", True
            ),
            Result(f"{name}: passages that an everyday sentence brings", round(sum(brought) / number, 2), "mean", "", True),
        ]
        for kind in ("direct", "paraphrase"):
            questions = [question for question in one.questions if question.kind == kind]
            for what, searching in (("", search), (", without the threshold", one.retrieved(threshold=-1.0))):
                share = sum(rank is not None for rank in ranks(searching, questions)) / len(questions)
                title = f"{name}: {kind} questions whose passage is among the 4{what}"
                results.append(Result(title, round(share, 3), f"of {len(questions)}", "", True))
        one.collection.close()
    return results
