"""KoSent: from a corpus of Korean emotional dialogue to an empathetic chatbot on your own machine.

    from kosent import build_chain
    chain = build_chain()                                  # prompt | llm | parser
    chain.invoke({"message": "오늘 너무 힘들었어"})

Importing this package loads none of the heavy libraries; each is imported when a function that needs it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "build_chain", "chat_model"]

if TYPE_CHECKING:
    from kosent.chain import build_chain
    from kosent.models import chat_model


def __getattr__(name: str) -> Any:
    if name == "build_chain":
        from kosent.chain import build_chain

        return build_chain
    if name == "chat_model":
        from kosent.models import chat_model

        return chat_model
    raise AttributeError(f"module 'kosent' has no attribute {name!r}")
