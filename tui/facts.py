"""The line above the input: what is being waited for, else how the last reply went."""

from __future__ import annotations

from collections.abc import Sequence

from kosent.conversations import WRITING, StoredMessage
from kosent.tui.models import Models
from kosent.tui.texts import Texts, one_line, reason_of

SHORTEST = 0.05
"""Seconds of writing below which no speed is given."""


def facts_line(
    texts: Texts, models: Models, messages: Sequence[StoredMessage], waited: float | None, collection: str = ""
) -> str:
    """`waited` is None when no reply is under way, else the seconds since the model was asked, 0 once it has begun to answer;
    `collection` is what replies may rest on."""
    if models.loading:
        return texts["loading"].format(seconds=int(models.loading_seconds))
    if waited is not None:
        return texts["waiting"].format(seconds=int(waited)) if waited >= 1 else texts["writing"]
    if models.nothing_there and not models.wanted:
        return texts["first_title"]  # what can be done stands above
    if models.problem is not None:
        return texts["load_failed"].format(reason=reason_of(texts, models.problem))
    if models.loaded is None:
        return ""
    resting_on = [texts["facts_collection"].format(name=one_line(collection))] if collection else []
    ended = (one for one in reversed(messages) if one.role == "assistant" and one.status != WRITING)
    last = next((one for one in ended if one.facts.get("seconds")), None)
    if last is None:
        return " · ".join([short(models.loaded.name), *resting_on, texts["ready"]])
    facts = last.facts
    figures = [short(str(facts.get("model") or models.loaded.name)), *resting_on]
    if tokens := int(facts.get("tokens", 0)):
        figures.append(texts["facts_tokens"].format(tokens=tokens))
        if (seconds := facts["seconds"] - facts.get("first_token", 0.0)) > SHORTEST and tokens > 1:
            figures.append(texts["facts_speed"].format(speed=(tokens - 1) / seconds))
    if "first_token" in facts:
        figures.append(texts["facts_first"].format(seconds=facts["first_token"]))
    if tokens and models.loaded.context and "prompt_tokens" in facts:
        used = int(facts["prompt_tokens"]) + tokens
        figures.append(texts["facts_context"].format(used=used, all=models.loaded.context))
    return " · ".join(figures)


def short(name: str) -> str:
    """A model's name as it fits on a line."""
    return name if name.startswith(("ollama:", "openai:")) else name.rpartition("/")[2]
