"""A collection's retriever as the chat asks it: in a thread that leaving the chat does not wait for, its failures told apart."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from kosent.tui.collections import CollectionError
from kosent.tui.models import in_thread


class Passages(BaseRetriever):
    """Raises `CollectionError`. What was rebuilt meanwhile, or whose process has ended, is opened anew once."""

    collection: str
    among: Any
    """`Collections`."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.found(query)

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return await in_thread(self.found, query)

    def found(self, query: str) -> list[Document]:
        try:
            return self._asked(query)
        except CollectionError:
            return self._asked(query)

    def _asked(self, query: str) -> list[Document]:
        retriever: BaseRetriever = self.among.ready(self.collection)
        try:
            return retriever.invoke(query)
        except Exception as error:  # whatever Chroma or an embedder raises must not end the chat
            raise self.among.failed(self.collection, error) from error
