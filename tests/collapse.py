"""The failures of the first study, planted into sound replies: what its models did, one failure each."""

from __future__ import annotations

from collections.abc import Sequence

PERSONA = "저는 AI 챗봇이라 감정을 느낄 수 없지만 무엇이든 도와드리겠습니다."
MADE_FOR = {
    "repetition": "repetition", "foreign": "foreign script", "echo": "echo", "same_start": "persona",
    "most_frequent": "safe reply", "ended": "never ending", "empty": "nothing",
}  # fmt: skip
"""Metric -> the failure that it was made for."""


def planted(users: Sequence[str], answers: Sequence[str]) -> dict[str, list[str]]:
    """Replies to `users` by failure; `sound` are the answers to other messages: fluent, and none the reference."""
    replies = [*answers[1:], answers[0]]
    whole = len(replies)
    return {
        "sound": replies,
        "repetition": [f"{reply} " * 6 for reply in replies],
        "foreign script": [f"とても {reply}" if number % 3 == 0 else reply for number, reply in enumerate(replies)],
        "echo": [f"{user} 그렇군요." for user in users],
        "persona": [f"{PERSONA} {reply}" for reply in replies],
        "safe reply": [PERSONA if number % 2 else reply for number, reply in enumerate(replies)],
        "never ending": [" ".join(replies[(number + i) % whole] for i in range(4)) for number in range(whole)],
        "nothing": [reply if number % 4 else "" for number, reply in enumerate(replies)],
    }
