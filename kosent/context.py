"""Fitting a conversation into a context window, counted in the model's own tokens.

The system message and the newest turn always stay; the oldest whole turns are left out until the rest and a reply fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from kosent.errors import ContextLengthError

SHORTEST_REPLY = 32
"""Tokens that must be left for a reply when there is but one turn."""
Count = Callable[[Sequence[BaseMessage]], int]
"""Tokens of the prompt that these messages make."""


@dataclass(frozen=True)
class Fitted:
    messages: list[BaseMessage]
    tokens: int
    dropped_turns: int


def turns_dropped(messages: Sequence[BaseMessage], number: int) -> list[BaseMessage]:
    """`messages` without the `number` oldest turns; a turn is what a person said and what followed it."""
    if not number:
        return list(messages)
    start = turn_starts(messages)[number]
    return [*(message for message in messages[:start] if isinstance(message, SystemMessage)), *messages[start:]]


def turn_starts(messages: Sequence[BaseMessage]) -> list[int]:
    """Where each turn begins; what stands before the first is the system message."""
    people = [isinstance(message, HumanMessage) for message in messages]
    starts = [place for place, person in enumerate(people) if person and not (place and people[place - 1])]
    return starts or [len(messages)]


def fit(messages: Sequence[BaseMessage], count: Count, context: int, reply_tokens: int) -> Fitted:
    """What of `messages` is asked, when prompt and reply share `context` tokens and a reply may have `reply_tokens`.

    Raises `ContextLengthError` when the newest turn alone leaves no room.
    """
    wanted = min(reply_tokens, context // 4)
    fewest, most = 0, len(turn_starts(messages)) - 1
    counted: dict[int, int] = {}

    def tokens(number: int) -> int:
        if number not in counted:
            counted[number] = count(turns_dropped(messages, number))
        return counted[number]

    if tokens(0) + wanted > context:  # the fewest turns that must go: counts fall with each, so halve the interval
        while fewest < most:
            middle = (fewest + most) // 2
            if tokens(middle) + wanted > context:
                fewest = middle + 1
            else:
                most = middle
    room = context - min(wanted, SHORTEST_REPLY)
    if tokens(fewest) > room:
        raise too_long(tokens(fewest), room, context)
    return Fitted(turns_dropped(messages, fewest), tokens(fewest), fewest)


def too_long(tokens: int, room: int, context: int) -> ContextLengthError:
    return ContextLengthError(
        f"The message has {tokens:,} tokens with what must go with it, and a context of {context:,} has room for {room:,}: "
        f"{tokens - room:,} too many.",
        tokens=tokens,
        room=room,
        hint="shorten the message, or raise `context` in config.toml (KOSENT_CONTEXT)",
    )
