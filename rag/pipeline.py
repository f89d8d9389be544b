"""Embeds documents and analyses their words side by side, and stores them batch by batch, each document whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kosent.embedders import Embedder
from kosent.errors import DataError
from kosent.morphemes import shared
from kosent.rag.collection import Writer
from kosent.rag.keyword_index import Entry
from kosent.rag.splitting import Chunk
from kosent.rag.stored import Prepared, searched_text

CHUNKS_AT_ONCE = 128
"""So many are embedded together."""
WAITING = 3
"""Batches that may be under way; more would only take memory."""


class Pipeline:
    """Takes documents, embeds and analyses batches of them in two threads, and stores them in their order."""

    def __init__(self, embedder: Embedder, writer: Writer, stored: Callable[[int], None] = lambda documents: None) -> None:
        """`stored` hears how many documents were stored, each time."""
        self._stored = stored
        self._embedder, self._writer = embedder, writer
        self._analyser = shared()
        self._embedding, self._analysing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._batch: list[tuple[Entry, list[Chunk]]] = []
        self._waiting: deque[tuple[list[tuple[Entry, list[Chunk]]], Future[Any], Future[Any]]] = deque()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._hand_on()
                while self._waiting:
                    self._store()
        finally:
            for pool in (self._embedding, self._analysing):
                pool.shutdown(cancel_futures=True)

    def take(self, entry: Entry, chunks: list[Chunk]) -> None:
        self._batch.append((entry, chunks))
        if sum(len(chunks) for _, chunks in self._batch) >= CHUNKS_AT_ONCE:
            self._hand_on()
        while len(self._waiting) > WAITING:
            self._store()

    def _hand_on(self) -> None:
        if self._batch:
            texts = [searched_text(entry, chunk) for entry, chunks in self._batch for chunk in chunks]
            vectors = self._embedding.submit(self._embedder.passages, texts)
            self._waiting.append((self._batch, vectors, self._analysing.submit(self._analyser.content, texts)))
            self._batch = []

    def _store(self) -> None:
        batch, embedded, analysed = self._waiting.popleft()
        vectors, morphemes = embedded.result(), analysed.result()
        if len(vectors) != len(morphemes):
            raise DataError(f"The embedder {self._embedder.name} gave {len(vectors)} vectors for {len(morphemes)} texts.")
        ready, start = [], 0
        for entry, chunks in batch:
            end = start + len(chunks)
            ready.append(Prepared(entry, chunks, vectors[start:end], morphemes[start:end]))
            start = end
        self._writer.put(ready)
        self._stored(len(ready))
