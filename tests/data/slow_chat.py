"""The chat in a process of its own, with a model that says COUNT letters of `TEXT` slowly and logs when it gave each.

    python slow_chat.py LOG SECONDS COUNT        one line a character: the time (monotonic) and how many there were

It needs a terminal, KOSENT_HOME and `tests` on PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from langchain_core.outputs import ChatGenerationChunk

from kosent.conversations import ConversationStore
from kosent.testing import ScriptedChat
from kosent.tui.app import chat_app
from kosent.tui.chat import leave_with_terminal
from kosent.tui.testing import ScriptedBackend
from terminals import TEXT


class Logged(ScriptedChat):
    log: int
    """A file descriptor; what is written to it is in the file at once, also when the process is killed."""

    def _stream(self, *arguments: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        for number, chunk in enumerate(super()._stream(*arguments, **options), 1):
            os.write(self.log, f"{time.monotonic()} {number}\n".encode())
            yield chunk


def main(log: str, seconds: str, count: str) -> None:
    backend = ScriptedBackend()
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    backend.model = Logged(replies=[TEXT[: int(count)]], delay=float(seconds), log=descriptor)
    store = ConversationStore()
    threading.Thread(target=leave_with_terminal, daemon=True).start()
    chat_app(backend, store).run()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
