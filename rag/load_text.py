"""Plain text, and the decoding of every kind that is text: UTF-8, UTF-16 with a byte order mark, or cp949."""

from __future__ import annotations

import re
from pathlib import Path

from kosent.errors import DataError
from kosent.finetune.corpus import find_encoding
from kosent.rag.document import Limits, Loaded, Refusal, Sections

NUL_SHARE = 0.01
"""Share of NUL characters from which on a file is no text."""
_CHUNK = 1024 * 1024

_OTHER_KINDS = {
    b"%PDF-": "a PDF", b"PK\x03\x04": "a ZIP archive or an Office document", b"\xd0\xcf\x11\xe0": "an Office document",
    b"\x1f\x8b": "a gzip archive", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"\x7fELF": "a program",
}  # fmt: skip
# charsets that web pages declare; a name outside this list is not tried
_DECLARED = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,20})", re.IGNORECASE)
_WEB = {
    "euc-jp": "euc_jp", "shift_jis": "cp932", "shift-jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030",
    "big5": "big5", "iso-8859-1": "cp1252", "windows-1252": "cp1252",
}  # fmt: skip


def encoding_of(path: Path) -> str:
    """The encoding that fits every byte. Raises `Refusal` for what is no text."""
    with path.open("rb") as file:
        head = file.read(8)
        for magic, what in _OTHER_KINDS.items():
            if head.startswith(magic):
                raise Refusal("unknown_kind", f"its name says that it is text, and it is {what}")
        nul = head.count(0) + sum(chunk.count(0) for chunk in iter(lambda: file.read(_CHUNK), b""))
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and nul > NUL_SHARE * path.stat().st_size:
        raise Refusal("garbled", "it holds many NUL bytes, so it is no text or UTF-16 without a byte order mark")
    try:
        return find_encoding(path)
    except DataError as error:
        found = str(error).removeprefix(f"{path} ").partition(", near ")[0]
        raise Refusal("garbled", f"it {found}", "open it in an editor and save it as UTF-8") from error


def declared_encoding(path: Path) -> str:
    """Like `encoding_of`, for a web page: what it declares comes before cp949."""
    data = path.read_bytes()
    found = _DECLARED.search(data[:4096])
    name = _WEB.get(found[1].decode("ascii").lower()) if found else None
    if name and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        for encoding in ("utf-8", name):
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            return encoding
    return encoding_of(path)


def read_text(path: Path, encoding: str) -> str:
    """The whole text, without a character that is cut off at its end."""
    return path.read_bytes().decode(encoding, "replace").removeprefix("\ufeff").removesuffix("\ufffd")


def load_text(path: Path, limits: Limits) -> Loaded:
    sections = Sections(limits)
    sections.add(read_text(path, encoding_of(path)))
    return Loaded(path.stem, sections.end(), [])
