"""Opening a corpus file: what it is, in which encoding, of which format; and its records, one at a time.

    corpus = open_corpus("감성대화_Training.csv")
    print(corpus.understood)
    for record in corpus.records(): ...

Nothing is cleaned here and nothing is written. Rows come from `open_file`, their meaning from `formats`.
"""

from __future__ import annotations

import codecs
import difflib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from kosent.errors import DataError, UsageError
from kosent.finetune.chat_formats import RowError
from kosent.finetune.containers import Container
from kosent.finetune.formats import BY_NAME, Format, recognise
from kosent.finetune.open_file import HEAD, open_container
from kosent.finetune.records import BrokenRow, Record
from kosent.starter import CORPUS_NAME, corpus_path

FORMATS: dict[str, str] = {name: f"{known.title}: {known.shape}" for name, known in BY_NAME.items()}
"""Name of each format, and in one line what it is."""

SAME_COMMAND = "…"
"""Stands in a hint for the command that was typed; `kosent prepare` puts it there."""
CUT_OFF = (-1, 0, b"")
_CHUNK = 1024 * 1024
_NEAR = 20
_SHOWN = 12
# first bytes -> what the file is, and what to do
_NO_CORPUS = {
    b"\xd0\xcf\x11\xe0": ("an old or a password-protected Excel workbook", "save it as .xlsx or CSV, without a password"),
    b"\x1f\x8b": ("a gzip archive", "gunzip --keep {path}"),
    b"BZh": ("a bzip2 archive", "bunzip2 --keep {path}"),
    b"\xfd7zXZ": ("an xz archive", "unxz --keep {path}"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", "unzstd {path}"),
    b"7z\xbc\xaf": ("a 7z archive", "7z x {path}"),
    b"Rar!": ("a RAR archive", "unrar x {path}"),
    b"%PDF": ("a PDF document", "get the corpus as CSV, JSON or Excel"),
}  # fmt: skip


class Corpus:
    """An opened corpus file; made by `open_corpus`."""

    def __init__(self, container: Container, known: Format, on_broken: Callable[[BrokenRow], None] | None) -> None:
        self._container = container
        self._known = known
        self._on_broken = on_broken
        self.path = container.path
        self.name = container.path.name
        self.format = known.name
        self.size = container.size
        """Bytes."""
        self.understood = f"{self.name}: {_understood(container, known)}{container.unread}"
        """How the file is read, in one line for people."""

    def position(self) -> int:
        """Bytes read so far by `records`, between 0 and `size`; of Excel and Parquet the same share of the rows."""
        return min(self._container.position, self.size)

    def records(self) -> Iterator[Record]:
        """Every record in the order of the file, from the beginning at each call; a row can give none or several.

        A row that cannot be read goes to `on_broken`; without that, the first one raises `DataError`.
        """
        read = self._known.start()
        good = 0
        for row in self._container.rows():
            if isinstance(row, BrokenRow):
                self._broken(row, good)
                continue
            number, values = row
            try:
                found = read((self.name, number), self._known.row(values))
            except RowError as error:
                self._broken(self._container.broken(number, str(error), repr(values)), good)
                continue
            good += 1
            yield from found

    def _broken(self, row: BrokenRow, good: int) -> None:
        if self._on_broken:
            self._on_broken(row)
            return
        raise DataError(
            f"{self.name}: row {row.row:,}: {row.problem}. Rows before it that are fine: {good:,}. Nothing was written. "
            "With --skip-broken such rows are left out and kept in rejected.jsonl.",
            hint=f"{SAME_COMMAND} --skip-broken",
        )


def source_path(source: str) -> Path:
    """The file behind a SOURCE of the command line; `starter` is the corpus that comes with KoSent. Raises `DataError`."""
    path = corpus_path() if source == CORPUS_NAME else Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the files inside it.", hint=f"ls {_quoted(path)}")
    if source == "-" or (path.exists() and not path.is_file()):
        raise DataError(
            f"{path} is a pipe or a device, and a corpus is read twice; save it as a file first.", hint="COMMAND > corpus.jsonl"
        )
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1)
        meant = f" Is {close[0]} meant?" if close else ""
        raise DataError(f"There is no corpus file {path}.{meant}", hint=f"ls {_quoted(path.parent)}")
    return path


def open_corpus(
    source: str,
    *,
    format: str | None = None,
    encoding: str | None = None,
    on_broken: Callable[[BrokenRow], None] | None = None,
) -> Corpus:
    """Opens one SOURCE and decides how it is to be read, by its head; its text is decoded once to be sure of the encoding.

    `format` is a name from `FORMATS` and `encoding` one that Python knows; what is None is recognised. `on_broken` is called
    with every row that cannot be read. Raises `UsageError` for a name that does not exist, `DataError` when the file cannot be
    read or is of no known format, `MissingExtraError` when it needs an extra that is not installed.
    """
    if format is not None and format not in BY_NAME:
        raise UsageError(f"There is no format {format}.", hint=f"--format with one of: {', '.join(BY_NAME)}")
    path = source_path(source)
    wanted = BY_NAME[format] if format else None

    def recognised(names: list[str]) -> bool:
        return not wanted.missing(names) if wanted else recognise(names, nested=False) is not None

    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        _check_magic(path, head)
        binary = head.startswith((b"PK\x03\x04", b"PAR1"))
        container = open_container(path, "" if binary else find_encoding(path, encoding), recognised)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return Corpus(container, _decide(container, wanted), on_broken)


def find_encoding(path: Path, wanted: str | None = None) -> str:
    """The encoding that fits every byte of `path`, as Python names it: UTF-8, UTF-16 with a byte order mark, or cp949.

    A character that is cut off at the very end is left to the reading of the last row. With `wanted` only that one is tried.
    Raises `UsageError` when it does not exist, `DataError` when none fits.
    """
    with path.open("rb") as file:
        head = file.read(3)
    if wanted is not None:
        try:
            "".encode(wanted)
            candidates = ["utf-8-sig" if codecs.lookup(wanted).name == "utf-8" else wanted]
        except (LookupError, UnicodeError):
            raise UsageError(f"There is no encoding {wanted}.", hint="--encoding cp949, or utf-8, utf-16, johab …") from None
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        candidates = ["utf-16"]
    else:
        candidates = ["utf-8-sig", "cp949"]
    misfits: list[tuple[int, int, bytes, str]] = []
    cut_off = ""
    for candidate in candidates:
        misfit = _first_misfit(path, candidate)
        if misfit is None:
            return candidate
        if misfit is CUT_OFF:
            cut_off = cut_off or candidate
        else:
            misfits.append((*misfit, candidate))
    if cut_off:
        return cut_off
    byte, line, near, nearest = max(misfits)
    names = " and not ".join(_spoken(candidate) for candidate in candidates)
    problem = f"{path} is not {names}: byte {byte:,} in line {line:,} does not fit, near {near!r}."
    if wanted is not None:
        raise DataError(
            f"{problem} Leave --encoding out, and utf-8, cp949 and utf-16 are tried.",
        )
    mended = Path(f"{path.stem}-mended{path.suffix}")
    raise DataError(
        f"{problem} If it was saved in another encoding, name that with --encoding. If it is damaged, iconv makes a copy without "
        "the bytes that do not fit.",
        hint=f"iconv -c -f {_spoken(nearest)} -t utf-8 {_quoted(path)} > {_quoted(mended)}",
    )


def _first_misfit(path: Path, encoding: str) -> tuple[int, int, bytes] | None:
    """Offset from 0, line from 1 and neighbourhood of the first byte that does not fit; None when all do.

    `CUT_OFF` when the file only ends in the middle of a character.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    read, lines, before = 0, 1, b""
    with path.open("rb") as file:
        while True:
            data = file.read(_CHUNK)
            pending = decoder.getstate()[0]
            try:
                decoder.decode(data, final=not data)
            except UnicodeError as error:
                if not data:
                    return CUT_OFF
                start = error.start if isinstance(error, UnicodeDecodeError) else 0
                known = before + data
                place = len(before) - len(pending) + start
                near = known[max(0, place - _NEAR) : place + _NEAR]
                return read - len(pending) + start, lines + data.count(b"\n", 0, max(0, start - len(pending))), near
            if not data:
                return None
            read += len(data)
            lines += data.count(b"\n")
            before = data[-_NEAR - 8 :]


def _check_magic(path: Path, head: bytes) -> None:
    if not head:
        raise DataError(f"{path} is empty.", hint="download or save it again")
    for magic, (what, hint) in _NO_CORPUS.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}, which cannot be read as a corpus.", hint=hint.format(path=_quoted(path)))


def _decide(container: Container, wanted: Format | None) -> Format:
    """The format of an opened file. Raises `DataError` when there is none, or when a used column is there twice."""
    found = _listed(container.names)
    known = wanted or recognise(container.names, nested=container.nested)
    if known is None:
        shapes = "\n".join(f"  {name:<14} {known.shape}" for name, known in BY_NAME.items())
        raise DataError(
            f"{container.path} ({container.kind}) is of no known format. Found: {found}. "
            f"Rename them to those of one of these:\n{shapes}"
        )
    if missing := known.missing(container.names):
        raise DataError(f"{container.path} is not of format {known.name}: it lacks {', '.join(missing)}; found: {found}.")
    if known.nested and not container.nested:
        raise DataError(f"{container.path} is {container.kind}; format {known.name} is read from JSON, JSON Lines and Parquet.")
    if twins := known.twins(container.names):
        raise DataError(
            f"{container.path} has several columns that mean {twins[0]}: {', '.join(twins[1])}.",
            hint="remove or rename all but one",
        )
    return known


def _understood(container: Container, known: Format) -> str:
    names = container.names
    parts = [", ".join(part for part in (known.title, container.kind, _spoken(container.encoding)) if part)]
    if known.name == "aihub":
        turns = sorted({int(digits) for name in names if "사람" in name and (digits := "".join(c for c in name if c.isdigit()))})
        parts.append(f"turns from 사람문장{turns[0]}..{turns[-1]} / 시스템문장{turns[0]}..{turns[-1]}")
    ignored = [] if known.all_into_meta else [name for name in names if not known.uses(name)]
    if ignored:
        parts.append(f"ignored {'keys' if container.nested else 'columns'}: {_listed(ignored)}")
    return "; ".join(parts)


def _listed(names: list[str]) -> str:
    """The first of `names`, as they can be printed."""
    shown = [name.encode("utf-8", "backslashreplace").decode() or "(no name)" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _spoken(encoding: str) -> str:
    return "utf-8" if encoding == "utf-8-sig" else encoding


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
