"""The system message and the chat templates: one text for training, evaluation, GGUF and serving.

A template is a Jinja file in `kosent/templates/`, without dates, tools or generation tags, named after the layout:

    gemma   <bos><start_of_turn>user … <end_of_turn>            Gemma 2 and 3; the system message opens the first user turn
    llama3  <|begin_of_text|><|start_header_id|>role …<|eot_id|>  Llama 3, 3.1, 3.2
    chatml  <|im_start|>role … <|im_end|>                       SmolLM2, Qwen 2 and 3

A template breaks the layout's own markers inside a message by a space, as `Layout.protect` does, so that a server which has
nothing but the template (llama-server, vLLM, LM Studio) is safe too. It writes the beginning-of-sequence token itself (where the
model has one), so a rendered prompt is tokenized without adding another. Rendering needs only jinja2; tokenizing is the caller's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from kosent.errors import DataError, ModelError

SYSTEM_MESSAGE = "당신은 감정을 공감해주는 챗봇입니다."
"""The system message of the founding project; what `prepare` writes unless told otherwise."""

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`"""


@dataclass(frozen=True)
class Layout:
    """What is fixed about one way of writing a conversation."""

    name: str
    end_of_turn: str
    """The token that closes every message, and with it the reply."""
    markers: tuple[str, ...]
    """Tokens that mean structure; typed by a person they are text (see `Layout.protect`)."""

    @property
    def turn_tokens(self) -> list[str]:
        """Those of `markers` that open or close a turn: what the template itself writes."""
        talk = [{"role": role, "content": ""} for role in ("system", "user", "assistant")]
        written = render(talk, self.template, self)
        return [marker for marker in self.markers if marker in written]

    @property
    def template(self) -> str:
        return files("kosent").joinpath("templates", f"{self.name}.jinja").read_text(encoding="utf-8").rstrip("\n")

    def protect(self, content: str) -> str:
        """Breaks the layout's own markers inside `content` by a space, so that nobody can type a turn border, and composes Hangul
        (NFC): what is copied from a Mac comes decomposed, and tokenizers differ in whether they compose it."""
        content = unicodedata.normalize("NFC", content)
        for marker in self.markers:
            content = content.replace(marker, f"{marker[0]} {marker[1:]}")
        return content


LAYOUTS = {
    "gemma": Layout("gemma", "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>")),
    "llama3": Layout(
        "llama3",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
    ),
    "chatml": Layout("chatml", "<|im_end|>", ("<|im_start|>", "<|im_end|>", "<|endoftext|>")),
}


def layout_for_vocabulary(vocabulary: Iterable[str]) -> Layout:
    """The layout whose opening marker is a token of the model. Raises `ModelError` when none is."""
    tokens = vocabulary if isinstance(vocabulary, (dict, set, frozenset)) else set(vocabulary)
    for layout in LAYOUTS.values():
        if layout.markers[0] in tokens and layout.end_of_turn in tokens:
            return layout
    known = ", ".join(f"{layout.name} ({layout.markers[0]})" for layout in LAYOUTS.values())
    raise ModelError(f"The tokenizer has the turn tokens of no known chat layout; known are {known}.")


def layout_of_template(template: str) -> Layout:
    """The layout that a Jinja template writes, told by its end-of-turn token. Raises `ModelError`."""
    for layout in LAYOUTS.values():
        if layout.end_of_turn in template:
            return layout
    raise ModelError(
        "The model's chat template writes none of the known layouts: " + ", ".join(LAYOUTS) + ".",
        hint="serve it with Ollama or llama-server: --model ollama:NAME or openai:NAME@URL",
    )


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


def render(
    messages: Sequence[Message], template: str, layout: Layout, *, bos_token: str = "", add_generation_prompt: bool = False
) -> str:
    """The exact text of a conversation, contents protected.

    Raises `DataError` when the messages are not [system,] user, assistant, user, … in turn.
    """
    check_turns(messages)
    protected = [{"role": m["role"], "content": layout.protect(m["content"])} for m in messages]
    from jinja2 import TemplateError

    try:
        text: str = _compiled(template).render(
            messages=protected, bos_token=bos_token, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise ModelError(
            f"The model's chat template does not take this conversation: {error}", hint="a model exported by kosent takes it"
        ) from error
    return text


def check_turns(messages: Sequence[Message]) -> None:
    """Raises `DataError` unless roles are an optional system message, then user and assistant in turn, user first."""
    turns = list(messages[1:] if messages and messages[0]["role"] == "system" else messages)
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message["role"] != expected:
            raise DataError(f"Message {number + 1} has the role {message['role']!r}; {expected!r} was expected.")
    if not turns:
        raise DataError("A conversation needs at least one user message.")


def reply_spans(
    messages: Sequence[Message], template: str, layout: Layout, *, bos_token: str = ""
) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation and, for each reply, the character range [start, end) from its first letter through its
    end-of-turn token: what a model is trained to write, and nowhere else."""
    text = render(messages, template, layout, bos_token=bos_token)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = render(messages[:index], template, layout, bos_token=bos_token, add_generation_prompt=True)
            if not text.startswith(prompt):
                raise ModelError("The chat template writes earlier turns differently once later ones are there.")
            end = text.index(layout.end_of_turn, len(prompt)) + len(layout.end_of_turn)
            spans.append((len(prompt), end))
    return text, spans
