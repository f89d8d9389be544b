"""Finds the passages that belong to a question: by words and by meaning, as a LangChain retriever.

BM25 over Korean morphemes and the cosine of an embedder each give their best chunks; reciprocal rank fusion (Cormack et al. 2009)
makes one order of the two. A chunk counts as found by its words only where it holds a good part of the question's: one common
word of five ranks chunks at random, and would push aside what the meaning found. What neither finds near enough is left out:
small talk brings few passages along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from kosent.morphemes import Analyser, shared
from kosent.rag.collection import Collection

if TYPE_CHECKING:
    import numpy as np
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun

RANK_CONSTANT = 60
"""Of the fusion, as in the paper."""
CANDIDATES = 50
"""Chunks that each of the two gives."""
FILTERED = 1000
"""Chunks that the words give where a filter throws some away."""

Rerank = Callable[[str, Sequence[str]], Sequence[float]]
"""`rerank(question, texts)`: a score for each text, larger is better; a cross-encoder, for instance."""


class HybridRetriever(BaseRetriever):
    """`invoke(question)` gives `Document`s, best first. Their metadata: source, title, kind, heading and page where there are
    any, start and end (characters in that section), chunk (its id), collection, score (of the fusion), cosine, keyword (BM25)
    and rerank where that is used.

    Raises what `Collection.look` and the embedder raise.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    collection: Any
    """A `Collection`."""
    k: int = 4
    """Most passages."""
    budget: int = 1600
    """Most characters of all passages together; one that is longer alone is cut. Some 0.6 tokens each for Llama 3."""
    threshold: float | None = None
    """Least cosine of a passage that the words do not find well; None is the embedder's own, -1 lets all through."""
    coverage: float = 0.4
    """A chunk is found by its words where it holds this share of the question's morphemes, each by its rarity (idf)."""
    keyword_weight: float = 2.0
    dense_weight: float = 1.0
    """Weights in the fusion; 0 leaves one out."""
    diversity: float = 0.0
    """Above 0: maximal marginal relevance (Carbonell & Goldstein 1998); 1 looks at nothing but difference."""
    filter: Mapping[str, Any] | None = None
    """What a chunk's metadata must be, as Chroma has it: {"source": "…"}, {"page": {"$lte": 10}}."""
    rerank: Rerank | None = Field(default=None, exclude=True)
    analyser: Any = Field(default=None, exclude=True)
    """A `kosent.morphemes.Analyser`; None is this process's own."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self.found(query, k)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await asyncio.to_thread(self.found, query, k)

    def found(self, question: str, k: int | None = None) -> list[Document]:
        """`invoke(question, k=2)` gives at most two, whatever the retriever's own `k`."""
        most = self.k if k is None else k
        if not question.strip():
            return []
        words = self._words(question) if self.keyword_weight else []
        vector = self.collection.embedder.questions([question])[0] if self.dense_weight else None
        with self.collection.look() as (index, vectors):
            by_words = index.search(words, FILTERED if self.filter else CANDIDATES) if words else []
            if self.filter and by_words:
                allowed = vectors.matching([name for name, _ in by_words], self.filter)
                by_words = [one for one in by_words if one[0] in allowed]
            covered = index.coverage(words, [name for name, _ in by_words])
            by_words = [one for one in by_words if covered[one[0]] >= self.coverage][:CANDIDATES]
            near = vectors.nearest(vector, CANDIDATES, self.filter) if vector is not None else []
            there = index.present([name for name, _ in near])
            near = [one for one in near if one[0] in there]
            fused = fuse([([name for name, _ in near], self.dense_weight), ([name for name, _ in by_words], self.keyword_weight)])
            order = sorted(fused, key=lambda name: -fused[name])[:CANDIDATES]
            cosines, scores = dict(near), dict(by_words)
            if vector is not None and (missing := [name for name in order if name not in cosines]):
                cosines |= {name: float(vector @ one) for name, one in vectors.vectors(missing).items()}
            order = [name for name in order if name in scores or cosines.get(name, -1.0) >= self._least_cosine]
            if self.diversity and order:
                order = _diverse(order, cosines, vectors.vectors(order), self.diversity)
            chunks = vectors.chunks(order if self.rerank else order[:most])
        documents = []
        for name in order:
            if name in chunks:
                text, facts = chunks[name]
                facts.pop("entry", None)
                about = {"collection": self.collection.name, "chunk": name, "score": fused[name]}
                about |= {"cosine": cosines[name]} if name in cosines else {}
                about |= {"keyword": scores[name]} if name in scores else {}
                documents.append(Document(text, metadata=facts | about))
        return self._within_budget(self._reranked(question, documents)[:most])

    def _words(self, question: str) -> list[str]:
        analyser: Analyser = self.analyser or shared()
        return analyser.content([question])[0]

    @property
    def _least_cosine(self) -> float:
        return float(self.collection.embedder.threshold) if self.threshold is None else self.threshold

    def _reranked(self, question: str, documents: list[Document]) -> list[Document]:
        if self.rerank is None or not documents:
            return documents
        for document, score in zip(documents, self.rerank(question, [one.page_content for one in documents]), strict=True):
            document.metadata["rerank"] = float(score)
        return sorted(documents, key=lambda one: -one.metadata["rerank"])

    def _within_budget(self, documents: list[Document]) -> list[Document]:
        kept, left = list[Document](), self.budget
        for document in documents:
            text = document.page_content
            if len(text) > left:
                if kept:
                    continue
                text = text[:left]
                document.metadata["end"] = document.metadata["start"] + len(text)
            kept.append(Document(text, metadata=document.metadata))
            left -= len(text)
        return kept


def fuse(rankings: Sequence[tuple[Sequence[str], float]]) -> dict[str, float]:
    """Reciprocal rank fusion: name -> sum of weight / (60 + rank) over the weighted rankings, ranks from 1."""
    scores: dict[str, float] = {}
    for names, weight in rankings:
        for rank, name in enumerate(names, 1):
            if weight:
                scores[name] = scores.get(name, 0.0) + weight / (RANK_CONSTANT + rank)
    return scores


def _diverse(
    order: list[str], cosines: Mapping[str, float], vectors: Mapping[str, np.ndarray[Any, Any]], share: float
) -> list[str]:
    """The best first; then always what is near to the question and far from what was taken."""
    left, taken = [name for name in order if name in vectors], list[str]()
    while left:

        def gain(name: str) -> float:
            same = max((float(vectors[name] @ vectors[one]) for one in taken), default=0.0)
            return (1 - share) * cosines[name] - share * same

        best = left[0] if not taken else max(left, key=gain)
        left.remove(best)
        taken.append(best)
    return taken


def open_retriever(name: str, **options: Any) -> HybridRetriever:
    """A retriever of the collection `name`; `options` are `HybridRetriever`'s. Raises what `Collection.open` raises."""
    return HybridRetriever(collection=Collection.open(name), **options)
