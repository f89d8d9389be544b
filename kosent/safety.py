"""Words that every chat shows: that an AI is writing, and where people answer at any hour.

The numbers are the Republic of Korea's, as of 2026: 109, the suicide-prevention line (24 hours, since 2024-01-01); 1577-0199,
the mental-health crisis line. They stand here alone.
"""

from __future__ import annotations

SUICIDE_PREVENTION_LINE = "109"
MENTAL_HEALTH_CRISIS_LINE = "1577-0199"

NOTICE = {
    "ko": "생성형 AI가 쓰는 답변입니다. 전문적인 도움을 대신하지 못해요.",
    "en": "Replies are written by a generative AI. They do not replace professional help.",
}
HELP = {
    "ko": f"혼자 견디기 힘들 때는 언제든 전화하세요: 자살예방 상담전화 {SUICIDE_PREVENTION_LINE}, "
    f"정신건강 위기상담전화 {MENTAL_HEALTH_CRISIS_LINE}",
    "en": f"When it is too much alone (Korea, 24 hours): call {SUICIDE_PREVENTION_LINE} or {MENTAL_HEALTH_CRISIS_LINE}",
}
