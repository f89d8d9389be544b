"""The process that reads one PDF for `kosent.rag.load_pdf`: `python -m kosent.rag.pdf_process PATH LIMITS` prints JSON.

What is printed is either `title`, `sections` (text, page, heading) and `notes`, or `reason`, `found` and `hint`. Pages that
cannot be read or are garbled are left out with a note. The heading of a page is where it stands in the bookmarks of the document.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from typing import Any

from pypdf import PageObject, PdfReader, apply_configuration
from pypdf import _cmap as cmap
from pypdf.errors import DependencyError, LimitReachedError, PyPdfError
from pypdf.generic import DictionaryObject, NameObject, NullObject, StreamObject

from kosent.rag.document import GARBLED, GARBLED_HINT, LONGEST_HEADING, Limits, Reason, Refusal
from kosent.rag.readable import garbled, one_line, tidy

MEMORY = 2 * 1024**3
"""Bytes of address space."""
BOOKMARKS = 5_000
"""Entries of the outline that are read."""
STREAM = 25_000_000
"""Bytes one stream may unpack to; pictures are never unpacked."""
TOKENS = 1_000_000
"""Numbers, names and operators of the drawing of one page."""
SHOWN = 10
"""Pages that are named in a note."""

# what a program leaves as the title of a document
_NO_TITLE = re.compile(
    r"(?:microsoft |untitled|제목 ?없음|문서 ?\d*$|document ?\d*$|.*\.(?:docx?|hwpx?|pptx?|xlsx?|pdf|indd)$)", re.I
)
# encodings of Korean documents without embedded fonts, which pypdf does not know: -H across, -V down
_KOREAN = {"KSC-EUC": "euc_kr", "KSCms-UHC": "cp949", "KSCms-UHC-HW": "cp949", "KSCpc-EUC": "euc_kr"}


def main(path: str, limits: Limits) -> dict[str, Any]:
    """What is printed for the document at `path`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _allow(limits.seconds)
    known = getattr(cmap, "_predefined_cmap", {})  # private; without it such documents are found to be garbled
    known |= {f"/{name}-{way}": encoding for name, encoding in _KOREAN.items() for way in "HV" if f"/{name}-{way}" not in known}
    with apply_configuration(
        maximum_declared_stream_length=STREAM,
        array_based_stream_maximum_output_length=STREAM,
        lzw_maximum_output_length=STREAM,
        run_length_maximum_output_length=STREAM,
        zlib_maximum_output_length=STREAM,
        stream_parsing_work_maximum_count=TOKENS,
        outline_maximum_entries=BOOKMARKS,
        jbig2dec_binary=None,
    ):
        try:
            return _read(path, limits)
        except Refusal as refusal:
            return {"reason": refusal.reason, "found": str(refusal), "hint": refusal.hint}
        except MemoryError:
            return {"reason": "too_big", "found": f"reading it takes more than {MEMORY // 1024**2:,} MB of memory", "hint": None}
        except DependencyError as error:
            return {"reason": "encrypted", "found": f"it is encrypted ({error})", "hint": "pip install 'cryptography>=3.1'"}
        except LimitReachedError as error:
            return {"reason": "too_big", "found": f"it unpacks to more than a document should ({error})", "hint": None}
        except Exception as error:  # a damaged document makes pypdf raise almost anything
            return {"reason": "damaged", "found": f"it is damaged ({type(error).__name__}: {error})", "hint": None}


def _allow(seconds: int) -> None:
    """Ends this process after so many seconds of processor time."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard))


def _read(path: str, limits: Limits) -> dict[str, Any]:
    reader = PdfReader(path)
    _unlock(reader)
    pages = len(reader.pages)
    if not pages:
        raise Refusal("damaged", "it has no pages")
    if pages > limits.pages:
        raise Refusal("too_big", f"it has {pages:,} pages, and {limits.pages:,} are read", "split it into several files")
    _allow(limits.seconds + pages)
    headings = _headings(reader, pages)
    sections: list[tuple[str, int, str]] = []
    lost: list[tuple[int, Exception]] = []
    bad: list[int] = []
    empty = characters = 0
    for number in range(1, pages + 1):
        try:
            page = reader.pages[number - 1]
            _set_encodings(page)
            raw = page.extract_text()
            text = tidy(raw)
        except (MemoryError, DependencyError):
            raise
        except Exception as error:
            lost.append((number, error))
            continue
        characters += len(text)
        if characters > limits.characters:
            raise Refusal("too_big", f"it holds more than {limits.characters:,} characters", "split it into several files")
        if garbled(raw):  # before it is tidied: glyph numbers without a table look like controls
            bad.append(number)
        elif text.strip():
            sections.append((text, number, headings.get(number, "")))
        else:
            empty += 1
    if lost and not sections:
        first = lost[0][1]
        reason: Reason = "too_big" if isinstance(first, LimitReachedError) else "damaged"
        raise Refusal(reason, f"none of its pages can be read ({type(first).__name__}: {first})")
    if bad and not sections:
        raise Refusal("garbled", GARBLED, GARBLED_HINT)
    if not sections:
        raise Refusal(
            "no_text", f"none of its {pages} pages holds text", "let a program for character recognition read the scan first"
        )
    notes = [f"{empty} of {pages} pages held no text"] if empty else []
    for numbers, what in ((bad, "are garbled"), ([number for number, _ in lost], "cannot be read")):
        if numbers:
            named = ", ".join(map(str, numbers[:SHOWN])) + (" …" if len(numbers) > SHOWN else "")
            notes.append(f"{len(numbers)} of {pages} pages {what} and are left out: {named}")
    return {"title": _title(reader), "sections": sections, "notes": notes}


def _unlock(reader: PdfReader) -> None:
    """Many documents are encrypted only to forbid printing, and open with an empty password."""
    if not reader.is_encrypted:
        return
    try:
        opened = reader.decrypt("")
    except (PyPdfError, NotImplementedError) as error:
        raise Refusal("encrypted", f"it is encrypted in an unknown way ({error})") from error
    if not opened:
        raise Refusal("encrypted", "it is protected with a password", "save it without a password")


def _set_encodings(page: PageObject) -> None:
    """Where a font brings an encoding of its own, pypdf takes single bytes for characters. What the characters are stands in its
    table either way; only that two bytes make one has to be told."""
    resources = page.get("/Resources", NullObject()).get_object()
    fonts = resources.get("/Font", NullObject()).get_object() if isinstance(resources, DictionaryObject) else None
    for entry in fonts.values() if isinstance(fonts, DictionaryObject) else ():
        font = entry.get_object()
        if not isinstance(font, DictionaryObject) or font.get("/Subtype") != "/Type0" or "/ToUnicode" not in font:
            continue
        if isinstance(font.get("/Encoding", NullObject()).get_object(), StreamObject):
            font[NameObject("/Encoding")] = NameObject("/Identity-H")


def _title(reader: PdfReader) -> str:
    """The title the document states, "" where it is none."""
    try:
        title = one_line(str((reader.metadata and reader.metadata.title) or ""))
    except MemoryError:
        raise
    except Exception:  # see main
        return ""
    odd = not title or len(title) > LONGEST_HEADING or _NO_TITLE.match(title) or garbled(title)
    return "" if odd else title


def _headings(reader: PdfReader, pages: int) -> dict[int, str]:
    """Heading of each page from 1: the bookmark that begins on it, with those above; else the last one before."""
    starts: dict[int, list[tuple[str, ...]]] = {}
    try:
        places = {page.indirect_reference.idnum: number for number, page in enumerate(reader.pages, 1) if page.indirect_reference}
        for reference, path in _bookmarks(reader.outline, ()):
            if number := places.get(reference, 0):
                starts.setdefault(number, []).append(path)
    except MemoryError:
        raise
    except Exception:  # see main; a document is worth reading without its bookmarks
        return {}
    found: dict[int, str] = {}
    current: tuple[str, ...] = ()
    for number in range(1, pages + 1):
        here = current
        for index, path in enumerate(starts.get(number, [])):
            if index and path[: len(here)] != here:
                break
            here = path
        if here:
            found[number] = " > ".join(here)
        current = starts[number][-1] if number in starts else current
    return found


def _bookmarks(entries: Any, above: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Object number of the page, and titles from the outermost, of each bookmark in a nested list."""
    path = above
    for entry in entries:
        if isinstance(entry, list):
            yield from _bookmarks(entry, path)
        else:
            path = (*above, one_line(str(entry.title or ""))[:LONGEST_HEADING]) if len(above) < 6 else above
            yield getattr(entry.page, "idnum", 0), path


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Limits(**json.loads(sys.argv[2])))))
