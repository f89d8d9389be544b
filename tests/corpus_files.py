"""Corpus files for the tests of the readers: writing one in every kind of file, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kosent.finetune.corpus import open_corpus
from kosent.finetune.records import BrokenRow, Record

Rows = list[dict[str, Any]]


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def read(path: Path, **options: Any) -> list[Record]:
    return list(open_corpus(str(path), **options).records())


def skip(path: Path, **options: Any) -> tuple[list[Record], list[BrokenRow]]:
    broken: list[BrokenRow] = []
    return read(path, on_broken=broken.append, **options), broken


def said(record: Record) -> list[str]:
    return [message["content"] for message in record.messages]


def as_csv(path: Path, rows: Rows) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_xlsx(path: Path, rows: Rows, *, above: int = 0) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "안내"
    book.active.append(["이 파일은 시험용입니다"])
    sheet = book.create_sheet("말뭉치")
    for _ in range(above):
        sheet.append(["제목"])
    sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(list(row.values()))
    book.save(path)


def as_parquet(path: Path, rows: Rows) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def as_json(path: Path, rows: Rows) -> None:
    write(path, json.dumps(rows, ensure_ascii=False))


def as_json_object(path: Path, rows: Rows) -> None:
    write(path, json.dumps({"version": 1, "data": rows, "end": [1]}, ensure_ascii=False, indent=1))


def as_short_object(path: Path, rows: Rows) -> None:
    write(path, json.dumps({"version": 1, "data": rows}))


def as_one_object(path: Path, rows: Rows) -> None:
    write(path, json.dumps(rows[0], ensure_ascii=False, indent=2))


def as_jsonl(path: Path, rows: Rows) -> None:
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
