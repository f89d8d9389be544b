"""KoSent: from a corpus of Korean emotional dialogue to an empathetic chatbot on your own machine.

    from kosent import build_chain
    chain = build_chain()                                  # prompt | llm | parser
    chain.invoke({"message": "오늘 너무 힘들었어"})

Importing this package loads none of the heavy libraries; each is imported when a function that needs it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "build_chain", "chat_model", "prompt"]

if TYPE_CHECKING:
    from kosent.chain import build_chain, prompt
    from kosent.models import chat_model


_HOMES = {"build_chain": "kosent.chain", "prompt": "kosent.chain", "chat_model": "kosent.models"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kosent' has no attribute {name!r}")
