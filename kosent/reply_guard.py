"""Keeps what encourages harm out of a reply, sentence by sentence, while it streams.

Letters are let through at once until a sentence begins to look dangerous, or the person is in danger: then the rest of the
sentence is held back until it is whole and can be judged. The first sentence that encourages suicide, self-harm, violence, or
silence about it is replaced by a short line, and others are left out. How often that is right stands in docs/safety.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kosent.safety_classifier import probability_of_harm

HARM_FROM, HELD_FROM = 0.5, 0.1
"""Least probability of harm at which a whole sentence is replaced, and the beginning of one is held back."""
REPLACEMENT = {
    "ko": "그렇게 말하지는 않을게요. 당신이 안전한 게 가장 중요해요.",
    "en": "I will not say that. Your safety matters most.",
}
_END = re.compile(r"[.!?…~。]+[\"'”’)\]]*\s+|\n+")


@dataclass
class ReplyGuard:
    """`feed` each piece of a reply and `rest` at its end; what they give is the reply as it may be shown."""

    lang: str = "ko"
    careful: bool = False
    """Hold back every sentence until it is whole: when the person may be in danger."""
    replaced: int = 0
    _sentence: str = ""
    """The sentence under way, with what of it has been let through."""
    _shown: int = 0
    _held: bool = field(default=False)

    def feed(self, piece: str) -> str:
        self._sentence += piece
        out = ""
        while end := _END.search(self._sentence):
            out += self._judged(self._sentence[: end.end()])
            self._sentence = self._sentence[end.end() :]
            self._shown, self._held = 0, False
        return out + self._let_through()

    def rest(self) -> str:
        out = self._judged(self._sentence)
        self._sentence, self._shown = "", 0
        return out

    def _let_through(self) -> str:
        if self.careful or self._held or not self._sentence:
            return ""
        if probability_of_harm(self._sentence) >= HELD_FROM:
            self._held = True
            return ""
        out = self._sentence[self._shown :]
        self._shown = len(self._sentence)
        return out

    def _judged(self, sentence: str) -> str:
        if probability_of_harm(sentence) < HARM_FROM:
            return sentence[self._shown :]
        self.replaced += 1
        if self.replaced > 1:
            return "… " if self._shown else ""
        return f"{'… ' if self._shown else ''}{REPLACEMENT[self.lang]} "
