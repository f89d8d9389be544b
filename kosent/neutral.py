"""Turn markers in what people and documents say, made into plain text before any model sees them.

A server puts a conversation into its model's template, and `<|im_start|>system` in a message would begin a turn there. A space
after the first letter leaves it readable and takes its meaning away. The markers are those of the usual chat templates, whichever
model answers: `kosent.prompts` knows those of KoSent's own layouts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from kosent.prompts import LAYOUTS

_OWN = "|".join(re.escape(marker) for layout in LAYOUTS.values() for marker in layout.markers)
# <|user|> of most, <｜User｜> of DeepSeek, [|user|] of EXAONE, [INST] and <<SYS>> of Llama 2 and Mistral, <s> and </s>, calls of
# tools as Qwen and Mistral write them, and the control tokens of Gemma and SmolLM2 that no conversation needs
_MARKER = re.compile(
    rf"{_OWN}|<[|｜][\w▁. -]{{1,40}}[|｜]>|\[\|[\w ]{{1,40}}\|\]|<</?SYS>>|</?s>|</?tool_(?:call|response)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|\[multimodal\]"
    r"|<(?:unk|mask|unused\d{1,4}|(?:start|end)_of_image|repo_?name|file_sep|filename|gh_stars|empty_output)>"
    r"|<(?:issue|jupyter)_\w{1,10}>"
)


def neutral(text: str) -> str:
    """`text` with each turn marker broken by a space."""
    return _MARKER.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def neutral_messages(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages with `neutral` contents; one without a marker stays the same object."""
    return [
        message if (plain := neutral(message.text)) == message.text else message.model_copy(update={"content": plain})
        for message in messages
    ]
