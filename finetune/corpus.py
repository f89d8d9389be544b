"""Reading a corpus file into dialogues.

Understood today: CSV with the columns of AI Hub's 감성대화말뭉치 (사람문장1, 시스템문장1, … and 감정_대분류 and so on), in UTF-8
(with or without a byte order mark) or cp949, which includes euc-kr. A name may have spaces inside ("사람문장 1"), and
시스템응답 is taken for 시스템문장. Nothing is cleaned here.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from kosent.errors import DataError
from kosent.starter import CORPUS_NAME, corpus_path

META_COLUMNS = ("연령", "성별", "상황키워드", "신체질환", "감정_대분류", "감정_소분류")
ENCODINGS = ("utf-8-sig", "cp949")
_PERSON = re.compile(r"사람(?:문장|응답)(\d+)$")
_SYSTEM = re.compile(r"시스템(?:문장|응답)(\d+)$")


@dataclass(frozen=True)
class RawDialogue:
    """One row of a corpus as it stands there: (person, system) pairs, possibly empty, and what is known about them."""

    source: str
    """File name and row number, counted from 1 below the header."""
    pairs: list[tuple[str, str]]
    meta: dict[str, str] = field(default_factory=dict)


def source_path(source: str) -> Path:
    """The file behind a SOURCE of the command line; `starter` is the corpus that comes with KoSent."""
    path = corpus_path() if source == CORPUS_NAME else Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"There is no corpus file {path}.", hint="kosent prepare starter --output data")
    return path


def decode(data: bytes, name: str) -> tuple[str, str]:
    """Text and the name of the encoding that fits all of it. Raises `DataError` with the first bytes that fit none."""
    for encoding in ENCODINGS:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError as error:
            problem = error
    near = data[max(0, problem.start - 20) : problem.start + 20]
    raise DataError(
        f"{name} is neither UTF-8 nor cp949: byte {problem.start} does not fit, near {near!r}.",
        hint=f"iconv -f ENCODING -t utf-8 {name} > fixed.csv, with the encoding it was saved in",
    )


def read_corpus(source: str) -> tuple[list[RawDialogue], str]:
    """Dialogues of one SOURCE, and how it was understood in one line. Raises `DataError`."""
    path = source_path(source)
    text, encoding = decode(path.read_bytes(), path.name)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: not a CSV file: {error}.") from error
    if not rows:
        raise DataError(f"{path} is empty.")
    names = [name.replace(" ", "").strip() for name in rows[0]]
    turns = _turn_columns(names, path)
    metas = [(index, name) for index, name in enumerate(names) if name in META_COLUMNS]
    dialogues = []
    for number, row in enumerate(rows[1:], start=1):
        cells = row + [""] * (len(names) - len(row))
        dialogues.append(
            RawDialogue(
                source=f"{path.name}:{number}",
                pairs=[(cells[person], cells[system]) for person, system in turns],
                meta={name: cells[index].strip() for index, name in metas if cells[index].strip()},
            )
        )
    return dialogues, f"{path.name}: {len(dialogues)} rows, AI Hub CSV, {encoding}, {len(turns)} turns a row"


def _turn_columns(names: list[str], path: Path) -> list[tuple[int, int]]:
    """Column numbers of (person, system) for each turn, in order."""
    person = {int(match.group(1)): i for i, name in enumerate(names) if (match := _PERSON.match(name))}
    system = {int(match.group(1)): i for i, name in enumerate(names) if (match := _SYSTEM.match(name))}
    both = sorted(person.keys() & system.keys())
    if not both:
        raise DataError(
            f"{path} has no columns 사람문장1 and 시스템문장1; found: {', '.join(names[:12]) or 'nothing'}.",
            hint="rename the columns to 사람문장1, 시스템문장1, 사람문장2, 시스템문장2 …",
        )
    return [(person[number], system[number]) for number in both]
