"""Which kind of file a corpus file is: CSV, JSON Lines, JSON, Excel or Parquet.

The content decides, never the name. The encoding is not looked for here but in `corpus`, and no row is read here: each kind has
a module of its own.
"""

from __future__ import annotations

from pathlib import Path

from kosent.finetune.containers import Container
from kosent.finetune.csv_table import CsvTable
from kosent.finetune.json_entries import open_json
from kosent.finetune.parquet import Parquet
from kosent.finetune.workbook import Recognised, Sheet

HEAD = 64 * 1024
"""Bytes looked at to decide what a file is."""


def open_container(path: Path, encoding: str, recognised: Recognised) -> Container:
    """`path` as what it is. `encoding` is that of its text, or "" for Excel and Parquet.

    `recognised` says whether names are those of a known format: with it the header of a sheet is found. Raises `DataError`
    when nothing can be read from it.
    """
    if not encoding:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        return Parquet(path) if parquet else Sheet(path, recognised)
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        head = text.read(HEAD).lstrip("\ufeff \t\r\n")
    return open_json(path, encoding, head) if head.startswith(("[", "{")) else CsvTable(path, encoding)
