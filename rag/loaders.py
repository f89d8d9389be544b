"""Documents as text with its places: pages of a PDF, headings of everything that has them.

    loaded = load(Path("마음건강_안내서.pdf"))
    for section in loaded.sections: print(section.page, section.heading, section.text)

Every document is hostile until it has been read: its size, what it unpacks to, its pages and characters are limited, nothing in
it is run or fetched, and whatever is wrong with it becomes an `UnreadableDocument`. No text is recognised from pictures. Each
kind has a module of its own, which is imported when it is needed; how text is cleaned and judged stands in `readable`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from kosent.errors import DataError, KosentError, MissingExtraError
from kosent.rag.document import (
    GARBLED,
    GARBLED_HINT,
    LONGEST_HEADING,
    Limits,
    Loaded,
    Reason,
    Refusal,
    Section,
    UnreadableDocument,
)
from kosent.rag.readable import garbled, one_line

__all__ = ["INSTEAD", "KINDS", "Limits", "Loaded", "Reason", "Section", "UnreadableDocument", "kind_of", "load", "loadable"]

KINDS: dict[str, str] = {
    ".txt": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".hwpx": "hwpx",
    ".csv": "table",
    ".tsv": "table",
    ".jsonl": "json_lines",
    ".json": "json",
}
"""Suffix, in lower case, and the kind of document that is read under it."""

# kind -> module of its function `load_KIND`
_MODULES = {
    "text": "load_text", "markdown": "load_markdown", "html": "load_html", "pdf": "load_pdf", "docx": "load_docx",
    "hwpx": "load_hwpx", "table": "load_rows", "json_lines": "load_rows", "json": "load_rows",
}  # fmt: skip
INSTEAD = {
    ".hwp": "save it as .hwpx in Hancom Office", ".doc": "save it as .docx", ".rtf": "save it as .docx",
    ".odt": "save it as .docx", ".xls": "save it as .csv", ".xlsx": "save it as .csv", ".ppt": "save it as .pdf",
    ".pptx": "save it as .pdf", ".epub": "save it as .pdf or .txt",
}  # fmt: skip


def loadable(path: Path) -> bool:
    """Whether documents with the suffix of `path` can be read; it need not exist."""
    return path.suffix.lower() in KINDS


def kind_of(path: Path) -> str:
    """The kind of document that the suffix of `path` stands for, "" for none."""
    return KINDS.get(path.suffix.lower(), "")


def load(path: Path, *, limits: Limits = Limits()) -> Loaded:  # noqa: B008
    """The text of the document at `path`. Raises `UnreadableDocument` whatever is wrong with it, and `MissingExtraError` when
    reading its kind needs a library that is not installed."""
    kind = kind_of(path)
    try:
        if not kind:
            known = ", ".join(KINDS)
            raise Refusal(
                "unknown_kind", f"documents of this kind are not read; known: {known}", INSTEAD.get(path.suffix.lower())
            )
        _check_file(path, limits)
        return _judged(_loader(kind)(path, limits))
    except Refusal as refusal:
        raise UnreadableDocument(_message(path, str(refusal)), reason=refusal.reason, path=path, hint=refusal.hint) from refusal
    except DataError as error:  # from the readers of corpora
        found = str(error).removeprefix(str(path)).lstrip(": ").rstrip(".")
        raise UnreadableDocument(_message(path, found), reason="damaged", path=path, hint=error.hint) from error
    except KosentError:
        raise
    except OSError as error:
        found = f"it cannot be read: {error.strerror or error}"
        raise UnreadableDocument(_message(path, found), reason="damaged", path=path) from error
    except MemoryError as error:
        raise UnreadableDocument(_message(path, "the memory does not suffice for it"), reason="too_big", path=path) from error
    except Exception as error:  # no library promises what it raises for a document that was damaged on purpose
        found = f"it is damaged ({type(error).__name__}: {error})"
        raise UnreadableDocument(_message(path, found), reason="damaged", path=path) from error


def _message(path: Path, found: str) -> str:
    return f"{path}: {found.rstrip('.')}.".encode("utf-8", "backslashreplace").decode()


def _check_file(path: Path, limits: Limits) -> None:
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise Refusal("unsafe", "it is a folder; name the files inside it")
    if not stat.S_ISREG(status.st_mode):
        raise Refusal("unsafe", "it is a pipe or a device, and only files are read")
    if status.st_size > limits.megabytes * 1024 * 1024:
        raise Refusal("too_big", f"it has {status.st_size / 1024**2:,.0f} MiB, and {limits.megabytes:,} are read")
    if not status.st_size:
        raise Refusal("no_text", "it is empty")


def _loader(kind: str) -> Callable[[Path, Limits], Loaded]:
    try:
        module = import_module(f"kosent.rag.{_MODULES[kind]}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Reading {kind} needs {error.name}, which is not installed.", hint="pip install 'kosent[rag]'"
        ) from error
    found: Callable[[Path, Limits], Loaded] = getattr(module, f"load_{kind}")
    return found


def _judged(loaded: Loaded) -> Loaded:
    """`loaded` with a title of one line. Raises `Refusal` when it holds nothing that can be read."""
    if not loaded.sections:
        raise Refusal("no_text", "it holds no text")
    if garbled("\n".join(section.text for section in loaded.sections)):
        raise Refusal("garbled", GARBLED, GARBLED_HINT)
    return replace(loaded, title=one_line(loaded.title)[:LONGEST_HEADING] or "—")
