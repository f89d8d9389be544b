"""What the rules `encoding`, `script` and `repetition` share. `kosent.text.clean` is the rule `unicode`.

A rule looks at one utterance and returns the text to go on with, or a `Reject` that says why. Utterances may be of any length and
from anyone, so every pattern of these rules takes linear time: nothing unbounded starts within a run that it has tried before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LINK = re.compile(r"https?://[!-~]+|www\.[!-~]+|(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]+")
HANGUL = re.compile(r"[가-힣]")
HANGUL_OR_JAMO = re.compile(r"[가-힣ㄱ-ㅣ]")


@dataclass(frozen=True)
class Reject:
    why: str
