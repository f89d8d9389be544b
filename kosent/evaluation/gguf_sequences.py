"""Sequences of tokens that llama.cpp computes side by side, each with a cache of its own.

Attention reads nothing of a sequence's neighbours; that is faster than one cache for all, and what it reads is what it would
read alone. llama.cpp computes sequences with neighbouring numbers in one forward pass, others one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kosent.errors import BackendError
from kosent.llama_cpp_log import last_errors
from kosent.llama_cpp_memory import cache_of_a_token, too_large
from kosent.llama_cpp_writer import Flag
from kosent.memory import free_memory

BATCH = 512
"""Tokens of a forward pass."""
ROWS = 128
"""Most of them whose logits are computed: a row of Gemma's vocabulary has 1 MB."""
CELLS = 256
"""llama.cpp rounds the cache of a sequence up to a multiple of it."""

Entry = tuple[int, int, int, bool]
"""Token, position, sequence, whether its logits are wanted."""


class Sequences:
    """Of the model in `llama`, a `llama_cpp.Llama`; at most `parallel` at a time, fewer where memory is short."""

    def __init__(self, llama: Any, threads: int, parallel: int) -> None:
        from llama_cpp import llama_max_parallel_sequences

        self._llama, self._threads = llama, threads
        self._parallel: int = max(1, min(parallel, llama_max_parallel_sequences() - 1))
        self._flag = Flag()
        self._ctx: Any = None
        self._cells = self._places = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kosent-batch")

    def close(self) -> None:
        self._flag.set(True)
        self._free()
        self._thread.shutdown()

    def begin(self, shared: list[int], count: int, tokens: int) -> int:
        """Forgets all there is. Returns for how many of `count` sequences of up to `tokens` tokens there is room; the sequence of
        that number holds `shared`. Raises `OutOfMemoryError`."""
        import llama_cpp

        places = self._open(count, tokens)
        llama_cpp.llama_memory_clear(self._memory, False)
        for _ in self.decoded([(token, position, places, False) for position, token in enumerate(shared)]):
            pass
        return places

    def _open(self, count: int, tokens: int) -> int:
        import llama_cpp

        cells = -(-tokens // CELLS) * CELLS
        size: int = cells * cache_of_a_token(self._llama.metadata)
        free = free_memory()
        places = min(self._parallel, count, max(1, free // (2 * size) - 1))
        if self._ctx is not None and self._cells >= cells and self._places >= min(places, count):
            return self._places
        self._free()
        if 2 * size > free:
            raise too_large(self._llama.model_path, cells, f"{2 * size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        chosen = llama_cpp.llama_context_default_params()
        chosen.n_ctx, chosen.n_seq_max = cells * (places + 1), places + 1
        chosen.n_batch = chosen.n_ubatch = BATCH
        chosen.n_outputs_max = max(ROWS, places)
        chosen.n_threads = chosen.n_threads_batch = self._threads
        chosen.swa_full, chosen.kv_unified = True, False
        chosen.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # as the chat's
        self._ctx = llama_cpp.llama_init_from_model(self._llama._model.model, chosen)
        if not self._ctx:
            self._ctx = None
            raise too_large(self._llama.model_path, cells * (places + 1), last_errors())
        self._flag.watched_by(self._ctx)
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._cells, self._places = cells, places
        return places

    def _free(self) -> None:
        import llama_cpp

        if self._ctx is not None:
            self._thread.submit(int).result()  # until nothing is computed any more
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._ctx)
            self._ctx = None

    def copy(self, source: int, target: int) -> None:
        """A sequence's cache to another's place, which is emptied first."""
        import llama_cpp

        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def decoded(self, entries: Iterable[Entry]) -> Iterator[tuple[int, int]]:
        """Computes them; for each whose logits are wanted its sequence, and where `logits` finds them until the next is taken.

        Raises `BackendError`.
        """
        for part in _parts(entries, max(ROWS, self._places)):
            batch = self._batch
            batch.n_tokens = len(part)
            for number, (token, position, place, wanted) in enumerate(part):
                batch.token[number], batch.pos[number], batch.n_seq_id[number] = token, position, 1
                batch.seq_id[number][0], batch.logits[number] = place, wanted
            self._decode()
            yield from ((place, number) for number, (_, _, place, wanted) in enumerate(part) if wanted)

    def _decode(self) -> None:
        """In a thread of its own, so that Ctrl-C arrives while llama.cpp computes."""
        import llama_cpp

        self._flag.set(False)
        under_way = self._thread.submit(llama_cpp.llama_decode, self._ctx, self._batch)
        try:
            code = under_way.result()
        except BaseException:
            self._flag.set(True)
            under_way.exception()
            raise
        if code:
            reason = last_errors() or f"llama_decode returned {code}"
            raise BackendError(f"llama.cpp stopped while computing with {Path(self._llama.model_path).name}: {reason}")

    def logits(self, output: int) -> np.ndarray:
        """Of the whole vocabulary, float32; a view."""
        import llama_cpp

        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._ctx, output), (self._llama.n_vocab(),))


def _parts(entries: Iterable[Entry], rows: int) -> Iterator[list[Entry]]:
    """At most `BATCH` tokens and `rows` wanted ones at a time."""
    part, wanted = list[Entry](), 0
    for entry in entries:
        if len(part) == BATCH or wanted + entry[3] > rows:
            yield part
            part, wanted = [], 0
        part.append(entry)
        wanted += entry[3]
    if part:
        yield part
