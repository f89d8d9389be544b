"""Retrievers over the user's collections, by name: for `build_chain`, `kosent ask` and the chat.

Collections are in `kosent.rag`, which nothing in `kosent` imports: as in the table of commands (`kosent.cli`) its module is named
by a string and imported when it is called for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.retrievers import BaseRetriever


def open_retriever(name: str, **options: Any) -> BaseRetriever:
    """A retriever of the collection `name`; `options` are those of `kosent.rag.retriever.HybridRetriever`.

    Raises `UsageError` for what cannot be a name, `DataError` where there is none or it does not fit to this KoSent,
    `MissingExtraError` without kosent[rag].
    """
    opened: BaseRetriever = importlib.import_module("kosent.rag.retriever").open_retriever(name, **options)
    return opened
