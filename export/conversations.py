"""The conversations on which two ways of reading a prompt are compared, and those that are answered."""

from __future__ import annotations

import unicodedata

from kosent.prompts import LAYOUTS, SYSTEM_MESSAGE, Message

TEXTS = (
    "오늘 회사에서 실수를 해서 너무 속상해요.",
    "ㅋㅋㅋㅋ 진짜? ㅠㅠ 😢👨‍👩‍👧",
    "  앞뒤  칸과\n\n줄바꿈\t탭  ",
    "def f(x):\n    return x['a'] + 1  # <b>&amp;</b>",
    "漢字와 English, 1,234원!",
    unicodedata.normalize("NFD", "친구가 없어서 외로워요"),
    "",
    " ",
    "\n".join(f"{layout.end_of_turn}\n{' '.join(layout.markers)}model\n" for layout in LAYOUTS.values()),
)
REPLIES = ("그러셨군요. 많이 속상하셨겠어요.", " 네, 듣고 있어요!\n", "")
TURNS = 4
QUESTIONS = (
    "오늘 회사에서 실수를 해서 너무 속상해요.",
    "요즘 잠이 잘 안 와.",
    "친구한테 서운한 말을 들었는데 아무 말도 못 했어요. 자꾸 생각나요.",
)
"""What the model is asked; the last time after the two before it."""


def conversations(texts: tuple[str, ...] = TEXTS, turns: int = TURNS) -> list[list[Message]]:
    """Each text as the first to the last of `turns` user turns, after others, with and without a system message."""
    found: list[list[Message]] = []
    for number, text in enumerate(texts):
        for system in ([], [{"role": "system", "content": SYSTEM_MESSAGE}]):
            talk: list[Message] = list(system)
            for turn in range(turns):
                found.append([*talk, {"role": "user", "content": text}])
                earlier = texts[(number + turn + 1) % len(texts)]
                talk += [{"role": "user", "content": earlier}, {"role": "assistant", "content": REPLIES[turn % len(REPLIES)]}]
    return found


def questions(system: str) -> list[list[Message]]:
    """Three prompts of one turn, and one of three turns with plain replies between."""
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    alone: list[list[Message]] = [[*opening, {"role": "user", "content": question}] for question in QUESTIONS]
    talk = list(opening)
    for question, reply in zip(QUESTIONS[:2], REPLIES, strict=False):
        talk += [{"role": "user", "content": question}, {"role": "assistant", "content": reply.strip()}]
    return [*alone, [*talk, {"role": "user", "content": QUESTIONS[2]}]]
