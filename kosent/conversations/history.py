"""A conversation as a model takes part in it: `history_of` is what it is told, `Record` keeps one exchange with it.

Nothing here prints or asks a model.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kosent.conversations.answer import SECONDS_BETWEEN_SAVES
from kosent.conversations.store import FAILED, STOPPED, WRITING, ConversationStore, StoredMessage
from kosent.errors import KosentError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def history_of(messages: Sequence[StoredMessage]) -> list[BaseMessage]:
    """Questions and replies in turn, the oldest first. A reply that failed or is empty is left out with its question, and so is
    a question without a reply, so that roles alternate; of a stopped reply what came is there."""
    from langchain_core.messages import AIMessage, HumanMessage

    history: list[BaseMessage] = []
    for asked, answered in pairwise(messages):
        if (asked.role, answered.role) == ("user", "assistant") and answered.status != FAILED and answered.content.strip():
            history += [HumanMessage(asked.content), AIMessage(answered.content)]
    return history


class Record:
    """One exchange among the stored conversations: the question before the model is asked, the reply while it comes.

    What cannot be stored is given to `say` in words, in `lang`, and not raised: nobody should lose a reply because the disk is
    full. Before `open`, nothing is stored and no file is touched.
    """

    def __init__(self, say: Callable[[str], None], lang: str) -> None:
        self._say, self._lang = say, lang
        self.history: list[BaseMessage] = []
        """Of the conversation that goes on."""
        self.settings: Mapping[str, Any] = {}
        """Its own, by the names of `kosent.settings`."""
        self._store: ConversationStore | None = None
        self._conversation: int | None = None
        self._reply: int | None = None
        self._begun_with: Mapping[str, Any] | None = None
        self._saved, self._stuck, self._ended = 0.0, False, False

    @property
    def conversation(self) -> int | None:
        """The one that holds the exchange; None where it is not stored."""
        return self._conversation if self._reply is not None else None

    def open(self, go_on: bool) -> None:
        """Opens the store, and the latest conversation in it if that is to go on."""
        with self._excused():
            self._store = store = ConversationStore()
            if store.damage:
                self._say(DAMAGED[self._lang].format(file=store.damage.moved_to, messages=store.damage.saved_messages))
            latest = store.latest() if go_on else None
            if latest is not None and (conversation := store.conversation(latest)):
                self.history, self.settings = history_of(store.messages(latest)), conversation.settings
                self._conversation = latest

    def begin(self, message: str, model: str, settings: Mapping[str, Any]) -> None:
        """Stores the question and a place for the reply; `model` and `settings` are those of a conversation that begins."""
        if self._store is None:
            return
        with self._excused():
            if self._conversation is None:
                self._conversation, self._begun_with = self._store.new(model, settings), settings
            question = self._store.add(self._conversation, "user", message)
            self._reply = self._store.add(self._conversation, "assistant", "", WRITING, parent=question)
            self._saved = time.monotonic()

    def save(self, text: str, facts: Mapping[str, Any], status: str = WRITING) -> None:
        """Stores the reply as it stands: one that is being written now and then only, and no more once that has failed."""
        under_way = status == WRITING
        early = time.monotonic() - self._saved < SECONDS_BETWEEN_SAVES
        if self._store is None or self._reply is None or (under_way and (early or self._stuck)):
            return
        self._ended = not under_way
        with self._excused(quietly=under_way):
            self._store.update(self._reply, text, status, facts)
            self._saved = time.monotonic()
            if self._conversation and self._begun_with is not None and "model" in facts and not under_way:
                self._store.configure(self._conversation, model=facts["model"], settings=self._begun_with)

    @contextmanager
    def _excused(self, quietly: bool = False) -> Iterator[None]:
        try:
            yield
        except (KosentError, OSError, sqlite3.Error) as error:
            self._stuck = True
            if self._store:
                self._store.distrust(error)
            if not quietly:
                self._say(NOT_KEPT[self._lang].format(reason=error))

    def close(self) -> None:
        """A reply of which nothing was saved was stopped."""
        if not self._ended:
            self.save("", {}, STOPPED)
        if self._store:
            with self._excused(quietly=True):
                self._store.close()


NOT_KEPT = {
    "ko": "이 대화는 저장하지 못했어요. {reason}",
    "en": "this exchange could not be stored. {reason}",
}
DAMAGED = {
    "ko": "대화 파일이 망가져 있어서 {file} 이름으로 따로 두었어요. 메시지 {messages}개는 되살렸어요.",
    "en": "the file of conversations was damaged and is now {file}; {messages} messages could be saved.",
}
