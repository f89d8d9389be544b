"""Opens the terminal chat. Conversations stay on this machine; the last one is shown again when you come back.

    kosent chat                         with the configured model, else Ollama's `kosent`, else the newest exported GGUF
    kosent chat --model ollama:kosent
    kosent chat --model run             a run directory: its newest GGUF

Enter sends, Shift+Enter or Alt+Enter breaks the line, Esc stops a reply, Ctrl+N begins a new conversation, Ctrl+Q leaves.
"""

from __future__ import annotations

import argparse
import sys

from kosent.errors import UsageError
from kosent.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="ollama:NAME, FILE.gguf, a run directory or openai:NAME@URL (default: see `kosent models`)"
    )
    parser.add_argument("--lang", choices=["ko", "en"], help="language of the interface (ko)")
    parser.add_argument("--system", help="system message (default: the one the model was trained with)")
    parser.add_argument("--temperature", type=float, help="0 is greedy and repeatable (default 0.7)")
    parser.add_argument("--max-tokens", type=int, help="longest reply in tokens (default 256)")


def run(args: argparse.Namespace) -> int:
    settings = load_settings(vars(args))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("The chat needs a terminal.", hint='kosent ask "오늘 너무 힘들었어"')
    from kosent.conversations import ConversationStore
    from kosent.models import chat_model_for, resolve_model
    from kosent.tui.app import chat_app

    reference = resolve_model(settings.model, settings.fallback)

    def make_chain():  # type: ignore[no-untyped-def]  # its type would import langchain before the first paint
        from kosent.chain import build_chain
        from kosent.llama_cpp_model import LlamaCppChat

        llm = chat_model_for(reference, settings)
        if isinstance(llm, LlamaCppChat):
            llm.load()
        return build_chain(llm, system=settings.system or reference.system_message, settings=settings)

    store = ConversationStore()
    try:
        chat_app(make_chain, store, model=_short(str(reference)), lang=settings.lang).run()
    finally:
        store.close()
    return 0


def _short(name: str) -> str:
    return name if name.startswith("ollama:") else name.rpartition("/")[2]
