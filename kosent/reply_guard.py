"""Keeps what encourages harm out of a reply, sentence by sentence, while it streams.

Letters are let through at once until a sentence begins to look dangerous; then the rest of it is held back until it is whole and
can be judged. To somebody who may be in danger no sentence is shown before that. The first one that encourages suicide,
self-harm, violence, or silence about it is replaced by a short line, and others are left out. The heavier the talk, the less it
takes: in ordinary talk "끝내세요" is about homework. How often it is right stands in docs/safety.md. It knows Korean only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kosent.safety import Level
from kosent.safety_classifier import probability_of_harm
from kosent.text import printable

HARM_FROM: dict[Level, float] = {"none": 0.9, "concern": 0.7, "crisis": 0.4}
HELD_FROM: dict[Level, float] = {"none": 0.5, "concern": 0.3, "crisis": 0.0}
"""Least probability of harm at which a whole sentence is replaced, and the beginning of one is held back, by the level of what
the person wrote."""
REPLACEMENT = {
    "ko": "그렇게 말하지는 않을게요. 당신이 안전한 게 가장 중요해요.",
    "en": "I will not say that. Your safety matters most.",
}
LOOKED_AT = 200
"""Letters at the end of an unfinished sentence that are looked at for each piece: one without an end must not cost ever more."""
_END = re.compile(r"[.!?…~。]+[\"'”’)\]]*\s+|\n+")


@dataclass
class ReplyGuard:
    """`feed` each piece of a reply and `rest` at its end; what they give is the reply as it may be shown."""

    lang: str = "ko"
    level: Level = "none"
    """Of what the person wrote."""
    replaced: int = 0
    _sentence: str = ""
    """The sentence under way, with what of it has been let through."""
    _shown: int = 0
    _held: bool = False

    def go_on_after(self, begun: str) -> None:
        """`begun` has been shown already: its last sentence is judged with what comes of it, and only that replaced."""
        self._sentence = _END.split(begun)[-1]
        self._shown = len(self._sentence)

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
        if self._held or not self._sentence:
            return ""
        if probability_of_harm(printable(self._sentence[-LOOKED_AT:])) >= HELD_FROM[self.level]:
            self._held = True
            return ""
        out = self._sentence[self._shown :]
        self._shown = len(self._sentence)
        return out

    def _judged(self, sentence: str) -> str:
        hidden = sentence[self._shown :]
        if not hidden or probability_of_harm(printable(sentence)) < HARM_FROM[self.level]:
            return hidden
        self.replaced += 1
        if self.replaced > 1:
            return "… " if self._shown else ""
        return f"{'… ' if self._shown else ''}{REPLACEMENT[self.lang]} "
