"""Opens the terminal chat. Conversations stay on this machine; the last one is shown again when you come back.

    kosent chat                         with the configured model, else Ollama's `kosent`, else the newest exported GGUF
    kosent chat --model ollama:kosent
    kosent chat --model run             a run directory: its newest GGUF
    kosent chat --collection 일기        answers may rest on this collection (kosent rag); Ctrl+L chooses another, or none

Enter sends, Shift+Enter or Alt+Enter breaks the line, Esc stops a reply, Ctrl+F searches all conversations, Ctrl+B goes to
their list, Ctrl+Up to the messages, Ctrl+P shows everything there is, F1 the keys, F2 where to get help, Ctrl+Q leaves.
"""

from __future__ import annotations

import argparse
import os
import sys
import termios
import threading
import time

from kosent.errors import UsageError
from kosent.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="ollama:NAME, FILE.gguf, a run directory or openai:NAME@URL (default: see `kosent models`)"
    )
    parser.add_argument("--collection", metavar="NAME", help="answer from the documents of this collection")
    parser.add_argument("--lang", choices=["ko", "en"], help="language of the interface (ko)")
    parser.add_argument("--system", help="system message (default: the one the model was trained with)")
    parser.add_argument("--temperature", type=float, help="0 is greedy and repeatable (default 0.7)")
    parser.add_argument("--max-tokens", type=int, help="longest reply in tokens (default 256)")


def run(args: argparse.Namespace) -> int:
    settings = load_settings(vars(args))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("The chat needs a terminal.", hint='kosent ask "오늘 너무 힘들었어"')
    if args.collection:
        from kosent.rag.collection import Collection

        Collection.open(args.collection)  # a name that was mistyped is said before there is a screen
    from kosent.conversations import ConversationStore
    from kosent.tui.app import chat_app
    from kosent.tui.backend import LocalBackend

    store = ConversationStore()
    backend = LocalBackend(settings)
    threading.Thread(target=leave_with_terminal, daemon=True).start()
    try:
        chat_app(backend, store, model=settings.model, lang=settings.lang).run()
    finally:
        backend.close()
        store.close()
    return 0


def leave_with_terminal(every: float = 5.0) -> None:
    """Ends the process when its terminal has gone without a word, as a lost connection may leave it: nobody could see or stop
    it any more, and reading from where nothing comes would keep a core busy. What was said is on disk. `every` is in seconds."""
    while True:
        time.sleep(every)
        try:
            termios.tcgetattr(sys.__stdin__.fileno())  # type: ignore[union-attr]
        except (termios.error, OSError):
            os._exit(1)
