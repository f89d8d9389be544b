"""Korean morphemes by Kiwi (kiwipiepy; kosent[rag], kosent[evaluate]), for what compares words: search and metrics.

`Morphemes` analyses in this process. Kiwi's first analysis loads 0.5 GB for some seconds and holds Python's lock while it does,
so that an interface would stand still: `MorphemeProcess` analyses in a process of its own, which `python -m kosent.morphemes`
is (a line of JSON texts in, a line of JSON lists out) and which ends with the one that started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import IO, Any, Protocol

from kosent import extras
from kosent.errors import KosentError

CONTENT = frozenset(("NNG", "NNP", "NNB", "NR", "SN", "VV", "VA", "XR", "MM", "MAG", "SL", "SH", "XPN", "W_SERIAL"))
"""Tags whose morphemes carry meaning: nouns, verb and adjective stems, roots, adverbs, numbers, Latin and Chinese
words; no pronouns, with which one also asks (누구, 무엇, 어디)."""
EMPTY = frozenset(
    ("것", "거", "수", "하", "되", "있", "없", "이", "그", "저", "나", "너", "때", "등", "및", "데", "줄", "안", "못", "좀", "더")
)
"""Light words that nearly every text has."""


class Analyser(Protocol):
    def content(self, texts: Sequence[str]) -> list[list[str]]: ...


class Morphemes:
    """Needs kiwipiepy. One for a process is enough: `shared`."""

    def __init__(self, workers: int = 2) -> None:
        from kiwipiepy import Kiwi

        self._kiwi: Any = Kiwi(num_workers=workers)
        self._lock = threading.Lock()

    def content(self, texts: Sequence[str]) -> list[list[str]]:
        """The morphemes of each text that carry meaning, lower case, in their order; verbs and adjectives as "가다" is "가/V"."""
        return [[found for one in tokens if (found := _content(one))] for tokens in self._tokens(texts)]

    def words(self, texts: Sequence[str]) -> list[list[str]]:
        """Every morpheme as it is written, particles and endings too."""
        return [[one.form for one in tokens] for tokens in self._tokens(texts)]

    def _tokens(self, texts: Sequence[str]) -> Iterable[Iterable[Any]]:
        with self._lock:
            return list(self._kiwi.tokenize(list(texts)))


def _content(token: Any) -> str:
    tag = token.tag.partition("-")[0]
    if tag not in CONTENT or token.form in EMPTY:
        return ""
    return f"{token.form}/V" if tag in ("VV", "VA") else str(token.form).lower()


def shared(extra: str = "rag") -> Morphemes:
    """The analyser of this process. Raises `MissingExtraError` where `extra`, which the caller belongs to, is not installed."""
    extras.require(extra, what="The analysis of Korean")
    return _shared()


@cache
def _shared() -> Morphemes:
    return Morphemes()


class MorphemeProcess:
    """The same, in a process of its own, which starts at once and is asked one text list after the other.

    Raises `KosentError` from `content` when the process ended.
    """

    def __init__(self) -> None:
        extras.require("rag", what="The analysis of Korean")
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kosent.morphemes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def content(self, texts: Sequence[str]) -> list[list[str]]:
        with self._lock:
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None and stdout is not None
            try:
                stdin.write(json.dumps(list(texts)).encode() + b"\n")
                stdin.flush()
                line = stdout.readline()
            except (OSError, ValueError):
                line = b""
        if not line:
            raise KosentError("The analysis of Korean ended by itself, perhaps for want of memory.", hint="start the chat again")
        found: list[list[str]] = json.loads(line)
        return found

    @property
    def ended(self) -> bool:
        """Whether the process is there no more, by itself or closed."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it was asked last and did not read
                    pipe.close()


def serve(lines: IO[bytes], answers: IO[bytes]) -> None:
    analyser = shared()
    analyser.content(["처음"])
    for line in lines:
        answers.write(json.dumps(analyser.content(json.loads(line))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
