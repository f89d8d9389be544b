"""One conversation on the screen: its messages, the line of facts, and the composer.

What is written is on disk before the model is asked, and the reply while it streams. The model is asked in a worker, so typing is
never blocked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static
from textual.worker import Worker, WorkerCancelled

from kosent import safety
from kosent.conversations import COMPLETE, LAST, WRITING, ConversationStore, StoredMessage
from kosent.conversations.history import history_of
from kosent.errors import KosentError
from kosent.text import printable
from kosent.tui.backend import collection_of
from kosent.tui.bubble import Bubble, code_of
from kosent.tui.collections import CollectionError
from kosent.tui.composer import Composer
from kosent.tui.facts import facts_line
from kosent.tui.models import Models, in_thread
from kosent.tui.reply_writer import ReplyWriter
from kosent.tui.texts import Texts, one_line, reason_of
from kosent.tui.transcript import Transcript

DRAFT = "draft"
"""The preference that keeps what is written but not sent."""
SECONDS_BETWEEN_DRAFTS = 0.5
SECONDS_OF_ANOTHER = 5.0
"""A reply that was stored less long ago may be another window's, which is still writing it."""


class Pane(Vertical):
    DEFAULT_CSS = """
    Pane .notice { color: $text-muted; padding: 0 2; height: auto; }
    Pane #editing { color: $accent; padding: 0 2; height: auto; display: none; }
    Pane #facts { color: $text-muted; padding: 0 2; height: auto; min-height: 1; max-height: 3; }
    """

    @dataclass
    class Changed(Message):
        """The list of conversations, or which one is open, is another."""

    def __init__(self, store: ConversationStore, models: Models, texts: Texts, lang: str) -> None:
        super().__init__(id="pane")
        self.store, self.models, self.texts, self.lang = store, models, texts, lang
        self.conversation: int | None = store.latest()
        self.unsaved: dict[str, Any] = {}
        """Settings of a conversation that has not begun."""
        self.reply: Worker[None] | None = None
        self.writer: ReplyWriter | None = None
        self.edited: StoredMessage | None = None
        self._draft: str | None = ""
        self._facts = self._put_by = ""
        self.collection = ""
        """Of the open conversation; "" is none."""
        self._beginning = False

    def compose(self) -> ComposeResult:
        yield Static(f"{safety.NOTICE[self.lang]}\n{safety.HELP[self.lang]}", classes="notice", id="long", markup=False)
        yield Static(self.texts["notice"], classes="notice", id="short", markup=False)
        yield Transcript(self._bubble, self.texts["welcome"])
        yield Static(self.texts["editing"], id="editing", markup=False)
        yield Static(id="facts", markup=False)
        yield Composer(placeholder=self.texts["placeholder"], show_line_numbers=False, soft_wrap=True)

    async def on_mount(self) -> None:
        self._draft = self.composer.text = printable(self.store.preference(DRAFT))
        self.composer.move_cursor(self.composer.document.end)
        self.composer.focus()
        await self.transcript.show(self._stored())
        self.set_interval(SECONDS_BETWEEN_DRAFTS, self.keep_draft)
        self.set_interval(1.0, self.describe)
        self._look_at_settings()
        self.call_after_refresh(self.prepare)

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def busy(self) -> bool:
        return self._beginning or (self.reply is not None and not self.reply.is_finished)

    def _stored(self) -> list[StoredMessage]:
        return self.store.messages(self.conversation) if self.conversation is not None else []

    def _bubble(self, message: StoredMessage) -> Bubble:
        live = self.writer is not None and self.writer.message == message.id and not self.writer.ended
        return Bubble(message, self.texts, self.lang, live=live)

    def say(self, text: str, *, severity: Any = "information") -> None:
        self.notify(text, severity=severity, markup=False, timeout=8)

    def describe(self) -> None:
        """What is known now: what is being waited for, or how the last reply went."""
        waited = self.writer.waited if self.busy and self.writer is not None else None
        line = facts_line(self.texts, self.models, self.transcript.messages, waited, self.collection)
        if (line := "\n".join(map(one_line, line.splitlines()))) != self._facts:
            self._facts = line
            self.query_one("#facts", Static).update(line)

    # --- which conversation

    async def open(self, conversation: int | None, at: int | None = None) -> None:
        """Shows a conversation, or with None a new one; a reply that streams is stopped and kept."""
        await self.stopped()
        self._leave_editing()
        if conversation is not None and self.store.conversation(conversation) is None:
            raise KosentError(self.texts["elsewhere"])
        self.conversation, self.unsaved = conversation, {}
        if at is not None:
            self.store.choose(at)
        await self.transcript.show(self._stored(), at)
        if at is None:
            self.composer.focus()
        self._look_at_settings()
        self.prepare()
        self.post_message(self.Changed())

    async def reload(self) -> None:
        """Shows what another window has written in this conversation; not while a reply streams or a message is edited."""
        self._look_at_settings()
        if self.busy or self.edited is not None:
            return
        stored = self._stored()
        if [(one.id, one.status, one.content) for one in stored] != [
            (one.id, one.status, one.content) for one in self.transcript.messages
        ]:
            await self.transcript.show(stored)

    def settings(self) -> dict[str, Any]:
        """Persona and parameters that this conversation has of its own."""
        stored = self.store.conversation(self.conversation) if self.conversation is not None else None
        return dict(stored.settings) if stored else dict(self.unsaved)

    def configure(self, own: dict[str, Any]) -> None:
        self.unsaved = own
        if self.conversation is not None:
            name = self.models.loaded.name if self.models.loaded else self.models.wanted
            with self.excused():
                self.store.configure(self.conversation, model=name, settings=own)
        with self.excused():
            self._look_at_settings()

    def _look_at_settings(self) -> None:
        self.collection = collection_of(self.settings(), self.models.backend.settings)
        self.describe()

    def use_collection(self, name: str) -> None:
        """From the next reply on; "" is none."""
        self.configure(self.settings() | {"collection": name})
        self.prepare()

    @work(exclusive=True, group="collection")
    async def prepare(self) -> None:
        """Makes the collection ready while nothing is asked yet, and says so where it cannot be used."""
        if self.collection:
            try:
                await in_thread(self.models.backend.prepare, self.collection)
            except CollectionError as error:
                self.say(reason_of(self.texts, error), severity="error")

    # --- saying something

    @on(Composer.Sent)
    async def sent(self, sent: Composer.Sent) -> None:
        if self.busy:
            self.say(self.texts["busy"], severity="warning")
            return
        with self.excused():  # what cannot be stored stays where it was written
            message = self._keep_sent(sent.text)
            self.composer.text = ""
            self._leave_editing()
            self.keep_draft()
            await self._answer(message)

    def _keep_sent(self, text: str) -> int:
        if self.conversation is None:
            name = self.models.loaded.name if self.models.loaded else self.models.wanted
            always = {"collection": self.collection} if self.collection else {}
            self.conversation = self.store.new(name, always | self.unsaved)
        return self.store.add(self.conversation, "user", text, parent=LAST if self.edited is None else self.edited.parent)

    @contextmanager
    def excused(self) -> Iterator[None]:
        """What cannot be read or stored is said, and the chat goes on."""
        try:
            yield
        except (sqlite3.Error, KosentError) as error:
            self.store.distrust(error)
            ours = isinstance(error, KosentError)
            said = reason_of(self.texts, error) if ours else self.texts["not_stored"].format(reason=one_line(error))
            self.say(said, severity="error")

    async def _answer(self, question: int) -> None:
        """Asks for a reply to the user's message `question`."""
        assert self.conversation is not None
        row = self.store.add(self.conversation, "assistant", "", WRITING, parent=question)
        await self._begin(ReplyWriter(self.store, row))

    async def _continue(self, message: StoredMessage) -> None:
        """Asks for the rest of a reply, as it now is: another window may have written it."""
        now = next((one for one in self._stored() if one.id == message.id), None)
        if now is None or (now.status == COMPLETE and now.facts.get("finish_reason") != "length"):
            await self.transcript.show(self._stored())
        elif now.status == WRITING and time.time() - now.written < SECONDS_OF_ANOTHER:
            self.say(self.texts["busy"], severity="warning")
        else:
            await self._begin(ReplyWriter(self.store, now.id, begun=now.content, facts=dict(now.facts)))

    async def _begin(self, writer: ReplyWriter) -> None:
        """Shows the path to the reply, which another window may have changed, and lets it be written."""
        self.store.choose(writer.message)
        path = self._stored()
        place = next((number for number, one in enumerate(path) if one.id == writer.message), None)
        if not place:
            raise KosentError(self.texts["elsewhere"])
        self.writer, self._beginning = writer, True
        try:
            await self._show_path(path)
            # not @work: a worker would describe itself with the whole conversation and be remembered
            work = self._write(writer, path[: place + 1])
            self.reply = self.run_worker(work, group="reply", exclusive=True, description="a reply")
        finally:
            self._beginning = False
        self.post_message(self.Changed())

    async def _show_path(self, path: list[StoredMessage]) -> None:
        """Adds what is new at the end, or where more has changed shows all of it."""
        shown = [one.id for one in self.transcript.messages]
        wanted = [one.id for one in path]
        if shown == wanted[:-1]:
            await self.transcript.add(path[-1])
        elif shown == wanted[:-2]:
            await self.transcript.add(path[-2])
            await self.transcript.add(path[-1])
        elif shown != wanted:
            await self.transcript.show(path)

    async def _write(self, writer: ReplyWriter, path: list[StoredMessage]) -> None:
        *before, question, last = path
        shown = replace(last, content=writer.answer.text, status=WRITING)

        async def show(live: bool = True) -> None:
            problem = reason_of(self.texts, writer.problem) if writer.problem else ""
            status = WRITING if live else writer.status
            now = replace(shown, content=writer.answer.text, facts=writer.answer.facts(), status=status)
            self.transcript.keep(now)
            bubble = self.transcript.bubble(now.id)
            if bubble is not None:
                await bubble.become(now, live=live, problem=problem)
            self.describe()

        said = [one.content for one in before if one.role == "user"]
        try:
            if not writer.begun and await in_thread(in_crisis, said, question.content):
                writer.answer.owe_card()  # also where no model is there to answer
                await show()
            chain = await self.models.chain(self.settings())
            await writer.write(chain, question.content, history_of(before), show)
        except Exception as error:  # the model could not be loaded
            writer.fail(error)
        finally:
            writer.end()
            if self.is_running and self.is_attached:
                await show(live=False)
                self.call_later(self._after_reply)

    def _after_reply(self) -> None:
        if self.is_attached:
            self.describe()
        self.post_message(self.Changed())

    # --- stopping

    def action_stop(self) -> None:
        if self.edited is not None:
            self._leave_editing()
        elif self.busy and self.reply is not None and not self.reply.is_cancelled:
            self.reply.cancel()
        self.composer.focus()

    async def stopped(self) -> None:
        """Stops a reply that streams and waits until it is stored."""
        if self.busy and self.reply is not None:
            if not self.reply.is_cancelled:
                self.reply.cancel()
            try:
                await self.reply.wait()
            except WorkerCancelled:
                return

    # --- what can be done with a message

    @on(Bubble.Asked)
    async def asked(self, asked: Bubble.Asked) -> None:
        message, verb = asked.of.message, asked.verb
        if verb == "copy":
            self.app.copy_to_clipboard(printable(message.content))
        elif verb == "code":
            self.app.copy_to_clipboard(code_of(message.content))
        elif verb == "sources":
            from kosent.tui.dialogs import PassageDialog

            self.app.push_screen(PassageDialog(list(message.facts.get("citations") or []), self.texts, self.lang))
        elif self.busy:
            self.say(self.texts["busy"], severity="warning")
        elif verb == "edit":
            self._edit(message)
        else:
            with self.excused():
                await self._change(message, verb)

    async def _change(self, message: StoredMessage, verb: str) -> None:
        if verb == "again":
            await self._again(message)
        elif verb == "continue":
            await self._continue(message)
        elif verb in ("previous", "next"):
            await self._step(message, -1 if verb == "previous" else 1)

    async def again(self) -> None:
        """Another reply to the last message."""
        last = self.transcript.messages[-1] if self.transcript.messages else None
        if last is None or self.busy or (last.role != "user" and last.parent is None):
            self.say(self.texts["busy" if self.busy else "nothing_to_do"])
            return
        with self.excused():
            if last.role == "user":
                await self._answer(last.id)
            else:
                await self._again(last)

    async def _again(self, message: StoredMessage) -> None:
        assert message.parent is not None
        await self._answer(message.parent)
        self.composer.focus()

    async def _step(self, message: StoredMessage, step: int) -> None:
        place = message.versions.index(message.id) + step
        if 0 <= place < len(message.versions):
            self.store.choose(message.versions[place])
            await self.transcript.show(self._stored(), message.versions[place])
            self.describe()

    def _edit(self, message: StoredMessage) -> None:
        if self.edited is None:
            self._put_by = self.composer.text
        self.edited = message
        self.composer.text = printable(message.content)
        self.composer.move_cursor(self.composer.document.end)
        self.query_one("#editing").display = True
        self.composer.focus()

    def _leave_editing(self) -> None:
        """What was being written before the editing is there again."""
        if self.edited is not None:
            self.composer.text, self._put_by, self.edited = self._put_by, "", None
            self.composer.move_cursor(self.composer.document.end)
        self.query_one("#editing").display = False

    # --- moving and keeping

    @on(Bubble.Left)
    def left(self, left: Bubble.Left) -> None:
        bubbles = self.transcript.bubbles()
        place = bubbles.index(left.of) + left.step
        if 0 <= place < len(bubbles):
            bubbles[place].focus()
        elif left.step > 0:
            self.composer.focus()

    def select_message(self) -> None:
        bubbles = self.transcript.bubbles()
        if bubbles:
            bubbles[-1].focus()

    @on(Composer.Scrolled)
    def scrolled(self, event: Composer.Scrolled) -> None:
        if event.pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)

    def keep_draft(self) -> None:
        """Keeps what is written and not yet sent, so that not even that is lost."""
        text = self.composer.text
        if text != self._draft and self.edited is None:
            self._draft = text
            try:
                self.store.prefer(DRAFT, text)
            except sqlite3.Error:
                self._draft = None  # tried again at the next moment


def in_crisis(said: list[str], message: str) -> bool:
    return safety.assess_conversation(said, message).level == "crisis"
