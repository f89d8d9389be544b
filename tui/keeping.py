"""What becomes of conversations: opened, renamed, pinned, deleted and brought back; exported, imported; all forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kosent.conversations import Conversation
from kosent.conversations.exchange import Form, export_conversations, export_name
from kosent.conversations.importing import import_conversations
from kosent.errors import KosentError
from kosent.tui.dialogs import ConfirmDialog, LineDialog
from kosent.tui.export_dialog import ExportDialog, Wanted
from kosent.tui.texts import one_line, reason_of

if TYPE_CHECKING:
    from kosent.tui.app import ChatApp


async def asked(app: ChatApp, verb: str, number: int | None) -> None:
    """Does what the list of conversations was asked for (`Sidebar.Asked`)."""
    with app.pane.excused():
        conversation = app.store.conversation(number) if number is not None else None
        if verb == "undo":
            undo(app)
        elif conversation is None:  # another window has removed it
            app.list_conversations()
        elif verb == "open":
            await _open(app, conversation)
        elif verb == "rename":
            _rename(app, conversation)
        elif verb == "pin":
            app.store.pin(conversation.id, not conversation.pinned)
            app.list_conversations()
        elif verb == "delete":
            await _delete(app, conversation)


async def _open(app: ChatApp, conversation: Conversation) -> None:
    app.hide_list()
    if conversation.id == app.pane.conversation:  # a reply that streams in it goes on
        app.pane.composer.focus()
    else:
        await app.pane.open(conversation.id)


def _rename(app: ChatApp, conversation: Conversation) -> None:
    def renamed(title: str | None) -> None:
        if title:
            with app.pane.excused():
                app.store.rename(conversation.id, title)
            app.list_conversations()

    app.push_screen(LineDialog(app.texts, app.texts["rename_title"], conversation.title), renamed)


async def _delete(app: ChatApp, conversation: Conversation) -> None:
    if app.pane.conversation == conversation.id:
        await app.pane.open(None)
        app.sidebar.entries.focus()
    app.store.delete(conversation.id)
    app.deleted.append(conversation.id)
    app.list_conversations()
    app.pane.say(app.texts["deleted"].format(title=one_line(conversation.title) or app.texts["untitled"]))


def undo(app: ChatApp) -> None:
    """Brings back what was deleted last."""
    if not app.deleted:
        app.pane.say(app.texts["nothing_to_undo"])
        return
    conversation = app.deleted.pop()
    app.store.restore(conversation)
    app.list_conversations(conversation)
    restored = app.store.conversation(conversation)
    said = app.texts["restored"].format(title=one_line(restored.title)) if restored else app.texts["nothing_to_undo"]
    app.pane.say(said)


def export(app: ChatApp) -> None:
    """Asks what and where, and writes it."""
    current = app.pane.conversation

    def name_for(form: Form, everything: bool) -> str:
        one = None if everything or current is None else app.store.conversation(current)
        return str(here() / export_name(one.title if one else "", form, datetime.now()))

    def write(wanted: Wanted) -> str:
        target = Path(wanted.path).expanduser()
        ids = (
            [one.id for one in app.store.conversations()] if wanted.everything else [one for one in [current] if one is not None]
        )
        number = export_conversations(app.store, ids, target, form=wanted.form, masked=wanted.masked, lang=app.lang)
        return app.texts["exported"].format(number=number, path=target)

    def chosen(wanted: Wanted | None) -> None:
        if wanted is not None:
            told(app, lambda: write(wanted))

    app.push_screen(ExportDialog(app.texts, name_for), chosen)


def import_file(app: ChatApp) -> None:
    """Asks for a file and takes its conversations in."""

    def read(path: Path) -> str:
        done = import_conversations(app.store, path)
        said = app.texts["imported"].format(number=done.conversations)
        if done.rejected:
            line, reason = done.rejected[0]
            said += "  " + app.texts["rejected"].format(number=len(done.rejected), line=line, reason=reason)
        return said

    def chosen(path: str | None) -> None:
        if path:
            told(app, lambda: read(Path(path).expanduser()))
            app.list_conversations()

    app.push_screen(LineDialog(app.texts, app.texts["import_title"], label=app.texts["import_path"]), chosen)


def forget(app: ChatApp) -> None:
    """Asks once and removes every conversation, what is written and not yet sent too."""

    def remove() -> str:
        app.deleted.clear()
        app.store.forget_everything()
        return app.texts["forgotten"]

    async def confirmed(yes: bool | None) -> None:
        if yes:
            await app.pane.open(None)
            app.pane.composer.text = ""
            app.pane.keep_draft()
            told(app, remove)
            app.list_conversations()

    question = app.texts["forget_ask"].format(number=len(app.store.conversations()), path=app.store.path)
    app.push_screen(ConfirmDialog(app.texts, app.texts["forget_title"], question, yes="delete_all"), confirmed)


def here() -> Path:
    """The current folder, or the user's own where that one was removed meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return Path.home()


def told(app: ChatApp, act: Callable[[], str]) -> None:
    """Does it and says how it went."""
    try:
        app.pane.say(one_line(act()))
    except (KosentError, OSError, RuntimeError, sqlite3.Error) as error:  # RuntimeError: `~name` of nobody
        app.pane.say(reason_of(app.texts, error), severity="error")
