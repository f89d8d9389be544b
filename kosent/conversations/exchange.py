"""Conversations written to files: Markdown for people, JSON Lines in the form that `kosent prepare` reads.

Of each conversation the chosen path goes out; other versions stay in the store. Masking finds what `kosent.personal` finds: no
names, and nothing written in an unusual way. `importing` reads the JSON Lines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Literal, TextIO

from kosent.citations import called
from kosent.conversations.store import COMPLETE, FAILED, STOPPED, WRITING, Conversation, ConversationStore, StoredMessage
from kosent.errors import KosentError, UsageError
from kosent.files import atomic_path
from kosent.personal import mask_personal
from kosent.text import clean, printable

Form = Literal["markdown", "jsonl"]
ENDINGS: dict[str, str] = {"markdown": ".md", "jsonl": ".jsonl"}
"""Every form, with the ending of its files."""
LONGEST_NAME = 80
"""Bytes of the name that is proposed for a file."""

_WORDS = {
    "ko": {
        "user": "나", "assistant": "KoSent", "untitled": "새 대화", "date": "날짜", "model": "모델",
        "sources": "참고한 글", "no_source": "출처가 적혀 있지 않아요",
        STOPPED: "여기서 멈췄어요.", FAILED: "답을 끝까지 받지 못했어요.",
        "cut_off": "프로그램이 꺼져서 여기까지만 남았어요.", "length": "길어서 여기까지만 썼어요.",
    },
    "en": {
        "user": "You", "assistant": "KoSent", "untitled": "New conversation", "date": "Date", "model": "Model",
        "sources": "Sources", "no_source": "no source given",
        STOPPED: "Stopped here.", FAILED: "The reply could not be finished.",
        "cut_off": "The program ended here; this is what was saved.", "length": "Cut here because it is long.",
    },
}  # fmt: skip
_INSIDE_NUMBERS = re.compile("[\u00ad\u200b\u200c\u2060\ufeff]")
_CUT_NUMBER = re.compile(r"[\d\s()+.~-]*[A-Za-z0-9._%+@-]*…$")


def to_markdown(conversation: Conversation, messages: Sequence[StoredMessage], *, lang: str = "ko", masked: bool = False) -> str:
    """The conversation to read. What was said stands in quotations, so that its own headings, rules and unfinished code blocks
    end where it ends."""
    words = _WORDS[lang]
    title = _title(conversation.title, masked) or words["untitled"]
    about = [f"- {words['date']}: {time.strftime('%Y-%m-%d %H:%M', time.localtime(conversation.started))}"]
    if conversation.model:
        about.append(f"- {words['model']}: {_line(conversation.model)}")
    blocks = [f"# {title}", "\n".join(about)]
    for message in messages:
        blocks.append(f"## {words[message.role]}")
        if text := _said(message.content, masked).strip("\n"):
            blocks.append("\n".join(f"> {line}" if line else ">" for line in text.split("\n")))
        if note := _note(message):
            blocks.append(f"*{words[note]}*")
        if sources := _sources(message, lang, masked):
            blocks += [f"{words['sources']}:", sources]
    return "\n\n".join(blocks) + "\n"


def _note(message: StoredMessage) -> str:
    """What is to be said about a reply that did not end by itself, as a key of `_WORDS`."""
    if message.status == WRITING or message.facts.get("cut_off"):
        return "cut_off"
    if message.status in (STOPPED, FAILED):
        return message.status
    return "length" if message.facts.get("finish_reason") == "length" else ""


def _sources(message: StoredMessage, lang: str, masked: bool) -> str:
    rows = []
    for place, one in enumerate(message.facts.get("citations") or (), start=1):
        said = {key: _said(str(one.get(key) or ""), masked) for key in ("source", "title", "heading", "page", "text")}
        name = called(said, lang) or _WORDS[lang]["no_source"]
        rows.append(f"{one.get('number', place)}. {name}: {_line(said['text'])}")
    return "\n".join(rows)


def to_jsonl_line(messages: Sequence[StoredMessage], *, masked: bool = False, system: str = "") -> str:
    """`{"messages": [...]}` of the questions with a reply, user and assistant in turn; "" when there is none.

    A question whose reply failed, is empty or is still being written is left out with it. A reply that was stopped stays.
    """
    rows: list[dict[str, str]] = []
    question = ""
    for message in messages:
        text = _said(message.content, masked)
        if message.role == "user":
            question = text
            continue
        if question.strip() and text.strip() and message.status in (COMPLETE, STOPPED):
            rows += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        question = ""
    if not rows:
        return ""
    if system.strip():
        rows.insert(0, {"role": "system", "content": _said(system, masked)})
    return json.dumps({"messages": rows}, ensure_ascii=False)


def export_conversations(
    store: ConversationStore, ids: Iterable[int], target: Path, *, form: Form, masked: bool = False, lang: str = "ko"
) -> int:
    """Writes the conversations into the new file `target`, which only its owner can read, and returns how many there are.

    Those that are deleted or hold nothing that the form can say are passed over. Raises `UsageError` when `target` is there
    already or nothing is left to write, `KosentError` when it cannot be written; no part of a file stays then.
    """
    if form not in ENDINGS:
        raise UsageError(f"There is no form {form!r}.", hint=" or ".join(ENDINGS))
    written = 0
    try:
        with _new_file(target) as file:
            for one in ids:
                if text := _exported(store, one, form, masked, lang):
                    file.write("\n" + text if written and form == "markdown" else text)
                    written += 1
            if not written:
                what = "a question with a reply" if form == "jsonl" else "a message"
                raise UsageError(f"None of these conversations holds {what}, so nothing was written.", hint="kosent chat")
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(target):
            raise UsageError(f"{target} is there already and stays as it is.", hint=str(_free(target, ENDINGS[form]))) from None
        folder = shlex.quote(str(target.parent))
        raise KosentError(
            f"{target} cannot be written: {error.strerror or error}.", hint=f"df -h {folder}; ls -ld {folder}"
        ) from error
    return written


def _exported(store: ConversationStore, one: int, form: Form, masked: bool, lang: str) -> str:
    conversation = store.conversation(one)
    messages = store.messages(one) if conversation else []
    if conversation is None or not messages:
        return ""
    if form == "markdown":
        return to_markdown(conversation, messages, lang=lang, masked=masked)
    line = to_jsonl_line(messages, masked=masked, system=str(conversation.settings.get("system") or ""))
    return f"{line}\n" if line else ""


@contextmanager
def _new_file(target: Path) -> Iterator[TextIO]:
    """Gives a file that stands under its name, whole, when the block ends well. Raises `FileExistsError` for a name in use."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # holds the name, so that nobody's file is replaced
    try:
        with atomic_path(target) as temporary, open(temporary, "x", encoding="utf-8", newline="\n", opener=_private) as file:
            yield file
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _free(target: Path, ending: str) -> Path:
    """A name beside `target`, or inside it where it is a folder, that is not in use."""
    base = target / f"kosent{ending}" if target.is_dir() else target
    names = (base.with_name(f"{base.stem}{f'-{number}' if number > 1 else ''}{base.suffix}") for number in count(1))
    return next(path for path in names if not os.path.lexists(path))


def export_name(title: str, form: Form, now: datetime) -> str:
    """A name for the file of one conversation, or with an empty title of several, that Linux and Windows both take.

    Only letters, digits and their marks are kept of the title, and personal data are masked: a name needs none. The date stands
    before it: no name begins with a dot or a dash, and none is a device of Windows (CON, NUL).
    """
    kept = "".join(one if unicodedata.category(one)[0] in "LNM" else " " for one in clean(_title(title, masked=True)))
    head, ending = f"kosent-{now:%Y-%m-%d-%H%M}", ENDINGS[form]
    name = "-".join((head, *kept.split())).encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore")
    return name.rstrip("-") + ending


def _said(text: str, masked: bool) -> str:
    """As it was said, without what would move the cursor of a terminal. The patterns for personal data need composed Hangul and
    numbers with nothing invisible inside."""
    text = printable(text)
    return mask_personal(_INSIDE_NUMBERS.sub("", unicodedata.normalize("NFC", text))) if masked else text


def _line(text: str) -> str:
    return " ".join(printable(text).split())


def _title(title: str, masked: bool) -> str:
    title = _line(_said(title, masked))
    return _CUT_NUMBER.sub("…", title) if masked and title.endswith("…") else title  # half of a number no pattern would find
