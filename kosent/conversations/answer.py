"""`Answer`: one reply while it comes out of a chain (`output="reply"`): what is shown of it, and what the store keeps.

The card at a crisis is told apart from the reply, and nothing that a terminal would obey is left in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kosent.citations import kept
from kosent.conversations.store import FAILED, STOPPED
from kosent.errors import InterruptedReplyError
from kosent.text import PrintableStream

if TYPE_CHECKING:
    from kosent.reply import Reply

SECONDS_BETWEEN_SAVES = 0.3
"""How often a reply that is being written is stored: with the time it takes to notice, within half a second."""
PASSING = ("problem", "cut_off", "finish_reason", "dropped_turns")
"""Facts of a stopped reply that do not hold of it once it has gone on."""


class Answer:
    """`begun` and `facts` are what a stopped reply had, when this is its rest. The clock runs from `start`."""

    def __init__(self, begun: str = "", facts: Mapping[str, Any] | None = None) -> None:
        self.text = begun
        self.known: Reply | None = None
        """All that the chain has said so far."""
        self.first: float | None = None
        """Seconds to the first text."""
        self.seconds: float | None = None
        """Seconds of the whole, once it has ended."""
        self.problem = ""
        self._before = {name: value for name, value in (facts or {}).items() if name not in PASSING}
        self._card = bool(self._before.get("card"))
        self._clean = PrintableStream()
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def owe_card(self) -> None:
        """The card is due, whether or not a model will answer."""
        self._card = True

    def took(self, piece: Reply) -> str:
        """The next piece; returns what of it is to be shown, which for the first may be the card."""
        opening = self.known is None
        self.known = piece if self.known is None else self.known + piece
        if opening and piece.safety and piece.safety.card:
            self._card = True
            return piece.text
        if piece.text and self.first is None:
            self.first = self.elapsed
        shown = self._clean.feed(piece.text)
        self.text += shown
        return shown

    def ended(self) -> str:
        """What is left to be shown."""
        rest = self._clean.rest()
        self.text += rest
        self.seconds = self.elapsed
        return rest

    def broke(self, error: BaseException) -> str:
        """What broke it off, and the status that it has by that: what came of it is a stopped reply."""
        self.problem = str(error)
        return STOPPED if isinstance(error, InterruptedReplyError) or self.text.strip() else FAILED

    def facts(self) -> dict[str, Any]:
        """What the store keeps beside the text."""
        facts = self._before | ({"card": True} if self._card else {})
        if self.first is not None:
            facts |= {"first_token": round(self.first, 3), "seconds": round(self.seconds or self.elapsed, 3)}
        if known := self.known:
            facts |= {name: value for name in ("model", "finish_reason", "dropped_turns") if (value := getattr(known, name))}
            if known.safety:
                replaced = self._before.get("replaced", 0) + known.safety.replaced
                facts |= {"safety": known.safety.level, "replaced": replaced}
            if known.usage:
                facts |= {"tokens": known.usage["output_tokens"], "prompt_tokens": known.usage["input_tokens"]}
            if known.citations:
                facts["citations"] = self.citations()
        return facts | ({"problem": self.problem} if self.problem else {})

    def citations(self) -> list[dict[str, Any]]:
        found = self.known.citations if self.known else ()
        return [kept(one) for one in found]
