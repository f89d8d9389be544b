"""The thread in which one llama.cpp model writes its replies, one after another.

Orders are served first come, first served. One that is given up while it waits is never begun; one that is being written ends
within the token, or within the piece of a long prompt, that is being computed. The cache of the common prefix is kept from one
reply to the next (llama-cpp-python does that), and a character is never cut in two.
"""

from __future__ import annotations

import codecs
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent.errors import BackendError, InterruptedReplyError, ModelError, UsageError
from kosent.llama_cpp_log import last_errors, silence
from kosent.llama_cpp_memory import check_room, too_large

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from kosent.context import Fitted


@dataclass(frozen=True)
class Piece:
    """Some letters of a reply, and the log probabilities of its tokens since the piece before."""

    text: str
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """How a reply ended: `reason` is "stop" or "length"."""

    reason: str
    prompt_tokens: int
    tokens: int
    dropped_turns: int


class Flag:
    """One byte that llama.cpp itself looks at between the operations of a forward pass.

    Its abort callback is C's `strlen`: 0, go on, for the empty text, 1 for any other. A callback in Python would have to take the
    interpreter's lock thousands of times a token.
    """

    STRLEN = ctypes.CDLL(None).strlen

    def __init__(self) -> None:
        self.byte = ctypes.create_string_buffer(2)

    def set(self, up: bool) -> None:
        self.byte[0] = b"x" if up else b"\0"

    def watched_by(self, context: Any) -> None:
        from llama_cpp import ggml_abort_callback, llama_set_abort_callback

        llama_set_abort_callback(context, ctypes.cast(self.STRLEN, ggml_abort_callback), ctypes.cast(self.byte, ctypes.c_void_p))


class Order:
    """A reply that was asked for."""

    def __init__(self, flag: Flag) -> None:
        self.future: Future[Ended]
        self.given_up = threading.Event()
        self._flag, self._lock, self._under_way = flag, threading.Lock(), False

    def ended(self) -> Ended:
        """Waits for the end; raises what went wrong."""
        return self.future.result()

    def give_up(self) -> None:
        """Stops it if it has not ended."""
        with self._lock:
            self.given_up.set()
            if self._under_way:
                self._flag.set(True)
        self.future.cancel()

    def under_way(self, begun: bool) -> None:
        with self._lock:
            self._under_way = begun
            self._flag.set(begun and self.given_up.is_set())


def load(path: str, context: int, threads: int | None, **options: Any) -> Any:
    """A `llama_cpp.Llama` that says nothing on the screen. Raises `ModelError`, `OutOfMemoryError`."""
    from llama_cpp import Llama, _internals, llama

    silence()
    last_errors()
    # llama-cpp-python would point the whole process' output to /dev/null while it loads, and a running interface with it
    for module in (_internals, llama):
        setattr(module, "suppress_stdout_stderr", lambda disable=True: nullcontext())  # noqa: B010  (typed as a class)
    try:
        check_room(path, context)
        return Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False, **options)
    except (ValueError, OSError) as error:
        said = last_errors() or str(error)
        if "alloc" in said or "memory" in said:
            raise too_large(path, context, said) from error
        raise ModelError(f"llama.cpp cannot load {path}: {said}", hint="kosent models     (lists what is here)") from error


class Writer:
    """Owns the `llama_cpp.Llama` of one file and the thread that uses it."""

    def __init__(self, path: str, context: int, threads: int | None) -> None:
        self.path, self.context, self.threads = path, context, threads
        self.made_for = (path, context, threads)
        self._llama: Any = None
        self._loading = threading.Lock()
        self._flag = Flag()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kosent-reply")

    def llama(self) -> Any:
        """The loaded model. Raises `ModelError`, `OutOfMemoryError`."""
        with self._loading:
            if self._llama is None:
                self._llama = load(self.path, self.context, self.threads, swa_full=True)
                self._llama.kosent_flag = self._flag  # it must live as long as llama.cpp looks at it
                self._flag.watched_by(self._llama.ctx)
        return self._llama

    def begin(
        self,
        fitted: Callable[[], Fitted],
        tokenized: Callable[[Sequence[BaseMessage]], list[int]],
        stops: Sequence[str],
        options: dict[str, Any],
        emit: Callable[[Piece | None], Any],
    ) -> Order:
        """Takes an order. `fitted` and `tokenized` make the prompt, in the writer's thread."""
        order = Order(self._flag)

        def write() -> Ended:
            order.under_way(True)
            try:
                kept = fitted()
                return self._write(tokenized(kept.messages), kept.dropped_turns, stops, options, order, emit)
            finally:
                order.under_way(False)

        order.future = self._thread.submit(write)
        order.future.add_done_callback(lambda future: _told(emit, None))
        return order

    def _write(
        self,
        prompt: list[int],
        dropped: int,
        stops: Sequence[str],
        options: dict[str, Any],
        order: Order,
        emit: Callable[[Piece], Any],
    ) -> Ended:
        """As `_written`; an error in the middle of a reply keeps what came."""
        sent: list[str] = []

        def tell(piece: Piece) -> None:
            sent.append(piece.text)
            _told(emit, piece)

        try:
            return self._written(prompt, dropped, stops, options, order, tell)
        except BackendError as error:
            if not sent:
                raise
            raise InterruptedReplyError(f"The reply broke off: {error}", text="".join(sent), hint="ask again") from error

    def _written(
        self,
        prompt: list[int],
        dropped: int,
        stops: Sequence[str],
        options: dict[str, Any],
        order: Order,
        tell: Callable[[Piece], Any],
    ) -> Ended:
        limit = min(options["max_tokens"], self.context - len(prompt))
        decoder, text, logprobs, count, reason = codecs.getincrementaldecoder("utf-8")("replace"), "", [], 0, "length"
        for token in self._tokens(prompt, options, order):
            if self._ends(token):
                reason = "stop"
                break
            count += 1
            written = self._llama._model.detokenize([token], special=False)
            if options["logprobs"] or options["top_logprobs"]:
                logprobs.append(self._logprob(token, written, options["top_logprobs"] or 0))
            text += decoder.decode(written)
            found = min((place for stop in stops if (place := text.find(stop)) >= 0), default=-1)
            if found >= 0:
                text, reason = text[:found], "stop"
                break
            ready = len(text) - _begun_stop(text, stops)
            if ready:
                tell(Piece(text[:ready], logprobs))
                text, logprobs = text[ready:], []
            if count >= limit:
                break
        if text or logprobs:
            tell(Piece(text, logprobs))
        return Ended(reason, len(prompt), count, dropped)

    def _tokens(self, prompt: list[int], options: dict[str, Any], order: Order) -> Iterator[int]:
        from llama_cpp.llama_grammar import LlamaGrammar

        schema = options["json_schema"]
        try:
            grammar = LlamaGrammar.from_json_schema(schema, verbose=False) if schema else None
        except Exception as error:
            raise UsageError(f"llama.cpp cannot follow this JSON schema: {error}", hint="a simpler schema") from error
        last_errors()
        self._llama.set_seed(options["seed"])
        try:
            for token in self._llama.generate(
                prompt,
                temp=options["temperature"],
                top_p=options["top_p"],
                top_k=0,
                min_p=0.0,
                repeat_penalty=1.0,
                grammar=grammar,
            ):
                if order.given_up.is_set():
                    raise CancelledError
                yield int(token)
        except (RuntimeError, ValueError) as error:
            self._llama._requires_eval = True  # its logits are those of a forward pass that did not end
            if order.given_up.is_set():
                raise CancelledError from error
            reason = last_errors() or str(error)
            raise BackendError(f"llama.cpp stopped while writing with {Path(self.path).name}: {reason}") from error

    def _ends(self, token: int) -> bool:
        from llama_cpp import llama_vocab_is_eog

        return bool(llama_vocab_is_eog(self._llama._model.vocab, token))

    def _logprob(self, token: int, written: bytes, top: int) -> dict[str, Any]:
        """Of a token just sampled, from the logits of the whole vocabulary, at temperature 1."""
        import numpy as np

        logits = np.ctypeslib.as_array(self._llama._ctx.get_logits_ith(-1), shape=(self._llama.n_vocab(),)).astype(np.float64)
        values = logits - logits.max()
        values -= np.log(np.exp(values).sum())

        def entry(number: int, spelled: bytes) -> dict[str, Any]:
            return {"token": spelled.decode(errors="replace"), "bytes": list(spelled), "logprob": float(values[number])}

        likeliest = np.argsort(values)[::-1][:top] if top else ()
        others = [entry(int(number), self._llama._model.detokenize([int(number)], special=True)) for number in likeliest]
        return entry(token, written) | {"top_logprobs": others}


def _told(emit: Callable[[Any], Any], piece: Piece | None) -> None:
    with suppress(RuntimeError):  # the event loop that asked is closed
        emit(piece)


def _begun_stop(text: str, stops: Sequence[str]) -> int:
    """How many letters at the end of `text` may be the beginning of a stop text."""
    return max(
        (length for stop in stops for length in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:length])),
        default=0,
    )
