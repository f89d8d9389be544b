"""How many tokens a conversation has for a model in Ollama, which has no call that says so.

The model's own vocabulary counts: read by llama.cpp (vocabulary alone, no weights) from the file that Ollama keeps, where that is
on this machine and can be read. Else Ollama is asked to read each message once (a reply of one token, whose `prompt_eval_count`
is the answer), which takes the time of reading it. Counts are remembered.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from ollama import Client

from kosent.errors import DataError, ModelError
from kosent.gguf_prompt import gguf_prompt

MARKUP = 8
"""Tokens that a turn's markers take at most, where the template is not known."""
REMEMBERED = 4096
"""Counts that are kept."""
MOST_ASKED = 4
"""Bytes for each token of the context, beyond which a text is too long anyhow and not read for its count."""
CLOSE = 16
"""A count that comes this close to the context may be that of a text that Ollama has cut."""
_FROM = re.compile(r"^FROM (.+)$", re.MULTILINE)


class OllamaTokens:
    def __init__(self, url: str, model: str, context: int) -> None:
        """`context` is the window that the model is loaded with; asking with another would load it again."""
        self.client = Client(host=url, trust_env=False, timeout=600)
        self.model, self.context = model, context
        self._counted: dict[int, int] = {}
        self._searching = threading.Lock()
        self._vocabulary: Any = None
        self._searched = False

    @staticmethod
    def at_most(messages: Sequence[BaseMessage]) -> int:
        """A bound that needs no model: no token is shorter than one byte."""
        return sum(len(message.text.encode()) + MARKUP for message in messages)

    def count(self, messages: Sequence[BaseMessage]) -> int:
        """Tokens of the prompt. Exact where the file was found and has a chat template that KoSent knows; else a few too many, as
        where the last message is the assistant's, which not every template in Ollama leaves open."""
        vocabulary = self._found()
        if vocabulary:
            closing = MARKUP if isinstance(messages[-1], AIMessage) else 0
            with suppress(ModelError, DataError):  # no template, one of another layout, or one that wants other turns
                return len(gguf_prompt(vocabulary, messages)) + closing
        return sum(self._of_text(message.text) + MARKUP for message in messages)

    def _of_text(self, text: str) -> int:
        if self._vocabulary is not None:
            return len(self._vocabulary.tokenize(text.encode(), add_bos=False, special=False))
        key = hash(text)
        if key not in self._counted:
            if len(self._counted) >= REMEMBERED:
                self._counted.clear()
            self._counted[key] = self._asked(text)
        return self._counted[key]

    def _asked(self, text: str) -> int:
        """What Ollama counts; the bound by bytes where it says nothing, or may have cut the text off."""
        most = len(text.encode())
        if not text or most > MOST_ASKED * self.context:
            return most
        reply = self.client.generate(self.model, text, raw=True, options={"num_predict": 1, "num_ctx": self.context})
        counted = reply.prompt_eval_count
        return most if counted is None or counted >= self.context - CLOSE else counted

    def _found(self) -> Any:
        """The vocabulary, or None where there is no file to read it from."""
        with self._searching:
            if not self._searched:
                self._vocabulary = self._search()
                self._searched = True
        return self._vocabulary

    def _search(self) -> Any:
        found = _FROM.search(str(self.client.show(self.model).modelfile))
        file = Path(found.group(1).strip()) if found else None
        readable = file is not None and file.is_file() and os.access(file, os.R_OK) and find_spec("llama_cpp") is not None
        return _vocabulary(file) if file and readable else None


def _vocabulary(file: Path) -> Any:
    from llama_cpp import Llama

    from kosent.llama_cpp_log import silence

    silence()
    try:
        return Llama(str(file), vocab_only=True, verbose=False)
    except (ValueError, OSError):  # a file of a kind that this llama.cpp does not know
        return None
