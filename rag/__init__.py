"""Retrieval over the user's own documents: collections in Chroma, found by Korean morphemes and by meaning.

    from kosent import build_chain
    from kosent.rag import open_retriever
    chain = build_chain(retriever=open_retriever("일기"))     # any LangChain chain takes it

`kosent rag` is the same on the command line (`kosent.rag.command`). Needs kosent[rag].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosent.rag.collection import Collection
    from kosent.rag.retriever import HybridRetriever, open_retriever

__all__ = ["Collection", "HybridRetriever", "open_retriever"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in __all__:
        module = "collection" if name == "Collection" else "retriever"
        return getattr(import_module(f"kosent.rag.{module}"), name)
    raise AttributeError(name)
