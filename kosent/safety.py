"""Who may be in danger, and what every chat shows: that an AI is writing, and where people answer at any hour.

    assess("이제 다 정리했어. 다들 고마웠어").level        # "crisis"

`assess` sees self-harm, suicide, abuse and immediate danger in Korean messages, also between the lines; what it can and cannot
do stands in docs/safety.md. It never decides what a person may say.

The numbers are the Republic of Korea's, as of 2026: 109, the suicide-prevention line (24 hours, since 2024-01-01); 1577-0199,
the mental-health crisis line; 1388, the youth line; 112 police, 119 ambulance and fire. They stand here alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SUICIDE_PREVENTION_LINE = "109"
MENTAL_HEALTH_CRISIS_LINE = "1577-0199"

YOUTH_LINE = "1388"
POLICE, AMBULANCE = "112", "119"

NOTICE = {
    "ko": "생성형 AI가 쓰는 답변입니다. 전문적인 도움을 대신하지 못해요.",
    "en": "Replies are written by a generative AI. They do not replace professional help.",
}
HELP = {
    "ko": f"혼자 견디기 힘들 때는 언제든 전화하세요: 자살예방 상담전화 {SUICIDE_PREVENTION_LINE}, "
    f"정신건강 위기상담전화 {MENTAL_HEALTH_CRISIS_LINE}",
    "en": f"When it is too much alone (Korea, 24 hours): call {SUICIDE_PREVENTION_LINE} or {MENTAL_HEALTH_CRISIS_LINE}",
}
TEXTING = {
    "ko": f"전화가 어려우면 {SUICIDE_PREVENTION_LINE}번으로 문자를 보내거나, "
    "카카오톡 채널 또는 앱 ‘마들랜’에서 24시간 글로 상담할 수 있어요.",
    "en": f"If you cannot speak, send a text message to {SUICIDE_PREVENTION_LINE}, "
    "or write to 마들랜, a KakaoTalk channel and an app, at any hour.",
}
"""The same line's service in writing, since 2024-09-10."""
CARD = {
    "ko": "지금 많이 힘드시군요. 혼자 견디지 않으셔도 돼요. "
    f"{SUICIDE_PREVENTION_LINE}(자살예방 상담전화)와 {MENTAL_HEALTH_CRISIS_LINE}(정신건강 위기상담)는 24시간 전화를 받아요. "
    f"청소년이라면 {YOUTH_LINE}도 있어요. 지금 위험하다면 {POLICE}나 {AMBULANCE}에 바로 전화해 주세요. "
    "이야기는 여기서 계속하셔도 괜찮아요.",
    "en": "This sounds very hard, and you need not bear it alone. "
    f"In Korea {SUICIDE_PREVENTION_LINE} (suicide prevention) and {MENTAL_HEALTH_CRISIS_LINE} (mental-health crisis) answer at "
    f"any hour, and {YOUTH_LINE} is there for young people. In danger right now, call {POLICE} or {AMBULANCE}. "
    "We can go on talking here.",
}
"""What precedes a reply at a crisis."""

Level = Literal["none", "concern", "crisis"]
LEVELS: tuple[Level, ...] = ("none", "concern", "crisis")
CRISIS_FROM, CONCERN_FROM = 0.25, 0.5
"""Least probability of a crisis, and of a crisis or heavy distress together."""
SENTENCES = 2
"""Sentences that are also looked at together, one pair after another, so that a long message does not drown a short sign."""
ENDS = 5000
"""Letters at the beginning and at the end that are looked at, of a message longer than both."""
_SENTENCE = re.compile(r"(?<=[.!?…\n])\s+")


@dataclass(frozen=True)
class Assessment:
    level: Level
    """crisis: the person, or somebody near, may be in danger now; concern: heavy distress."""
    score: float
    """Probability of a crisis, 0 to 1, as far as the classifier's lines are like life."""


def assess(text: str) -> Assessment:
    """How a message should be met. 0.2 ms for a sentence, 0.2 s for the longest text (docs/safety.md); nothing leaves this
    process."""
    from kosent.safety_classifier import MESSAGES, parts

    if not text.strip():
        return Assessment("none", 0.0)
    if len(text) > 2 * ENDS:
        text = f"{text[:ENDS]}\n{text[-ENDS:]}"
    sentences = _SENTENCE.split(text.strip())
    looked_at = {
        *parts(text),
        *(" ".join(sentences[start : start + SENTENCES]) for start in range(max(1, len(sentences) - SENTENCES + 1))),
    }
    found = [MESSAGES.probabilities(part) for part in looked_at]
    crisis = max(one["crisis"] for one in found)
    heavy = max(one["crisis"] + one["concern"] for one in found)
    return Assessment("crisis" if crisis >= CRISIS_FROM else "concern" if heavy >= CONCERN_FROM else "none", round(crisis, 4))


REMEMBERED = 3
"""User turns, the present one included, in which a crisis keeps its level: one denial does not switch it off."""


def assess_conversation(earlier: Sequence[str], text: str) -> Assessment:
    """The same for the message `text` after the user's `earlier` ones, the newest last."""
    return max((assess(one) for one in [*earlier[-(REMEMBERED - 1) :], text]), key=_gravity)


def _gravity(assessment: Assessment) -> tuple[int, float]:
    return LEVELS.index(assessment.level), assessment.score
