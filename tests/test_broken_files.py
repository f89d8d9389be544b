"""Reading bad corpus files: every way in which a row or a file can be broken. Good ones are in `test_readers`."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corpus_files import as_json, as_jsonl, as_parquet, as_xlsx, read, said, skip, write
from kosent.errors import DataError
from kosent.finetune import csv_table, json_entries
from kosent.finetune.corpus import open_corpus


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "utf-16"])
@pytest.mark.parametrize("content", ["Q,A\n가,나\n다,라마바", '{"Q":"가","A":"나"}\n{"Q":"다', '[{"Q":"가","A":"나"}, {"Q":"다'])
def test_a_file_cut_in_the_middle_of_a_character_loses_its_last_row(tmp_path: Path, encoding: str, content: str) -> None:
    records, broken = skip(write(tmp_path / "a", content.encode(encoding)[:-1]))
    assert [said(record) for record in records] == [["가", "나"]]
    assert [entry.row for entry in broken] == [2]


@pytest.mark.parametrize("before", [10, 116_508, 116_509, 200_000])
def test_bytes_of_no_encoding_are_named(tmp_path: Path, before: int) -> None:
    head = b"Q,A\n" + "가나,b\n".encode() * before
    file = write(tmp_path / "a.csv", head + b"\xff\xff,b\n")
    problem = f"not utf-8 and not cp949: byte {len(head):,} in line {before + 2:,} .*xff.* name that with --encoding"
    with pytest.raises(DataError, match=problem) as caught:
        open_corpus(str(file))
    assert caught.value.hint == f"iconv -c -f utf-8 -t utf-8 {file} > a-mended.csv"


def test_two_columns_that_mean_the_same_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several columns that mean 사람문장1: 사람문장1, 사람 응답1"):
        open_corpus(str(write(tmp_path / "a.csv", "사람문장1,시스템문장1,사람 응답1\n가,나,다\n")))
    _, broken = skip(write(tmp_path / "a.jsonl", '{"Q":"a","A":"b"}\n{"Q":"a","A":"b"," A":"c"}\n'))
    assert "both mean A" in broken[0].problem


@pytest.mark.parametrize("ranking", [None, [1], [0, 1.5], "[0, 1]", [True, False]])
def test_a_ranking_that_ranks_nothing_is_a_broken_row(tmp_path: Path, ranking: Any) -> None:
    good = {"prompt": "p", "completion_0": "a", "completion_1": "b", "ranking": [1, 1]}
    as_jsonl(tmp_path / "a", [good, {**good, "ranking": ranking}])
    records, broken = skip(tmp_path / "a")
    assert records == [] and broken[0].row == 2 and "ranking" in broken[0].problem


def test_what_is_not_a_text_message_is_a_broken_row(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "가"}, {"type": "text", "text": "나"}]
    wrong: list[Any] = [
        [{"role": "tool", "content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}], "text", [1],
        [{"role": "user", "content": {"a": 1}}], [{"role": "user", "content": "\ud83d"}],
    ]  # fmt: skip
    rows = [{"messages": value} for value in ([{"role": "user", "content": parts}], *wrong)]
    records, broken = skip(write(tmp_path / "a", "".join(json.dumps(row) + "\n" for row in rows)))
    assert [said(record) for record in records] == [["가나"]]
    assert [row.row for row in broken] == [2, 3, 4, 5, 6, 7]


def test_a_later_row_without_the_keys_is_broken(tmp_path: Path) -> None:
    as_json(
        tmp_path / "a",
        [{"Q": "a", "A": "b"}, {"Q": "a"}, {"Q": ["a"], "A": "b"}, {"Q": None, "A": float("inf")}, {"Q": 1.0, "A": True}],
    )
    text = (tmp_path / "a").read_text(encoding="utf-8").replace("Infinity", "7")
    records, broken = skip(write(tmp_path / "a", text[:-1] + ", 5]"))
    assert [said(record) for record in records] == [["a", "b"], ["", "7"], ["1", "True"]]
    assert [(row.row, row.problem) for row in broken] == [
        (2, "has no A; found: Q"), (3, "Q is not text but a list"), (6, "not a JSON object"),
    ]  # fmt: skip


def big_csv(broken: str) -> str:
    return "Q,A,label\n" + "배고파,드세요,0\n" * 30_000 + broken + "배고파,드세요,0\n" * 99


@pytest.mark.parametrize("row", ['졸려,"열린 따옴표,0\n', '졸려,"이상"한,0\n', "졸려,a\0,0\n", "졸려,b,c,d\n"])
def test_a_broken_row_far_down_is_named_and_alone_is_lost(tmp_path: Path, row: str) -> None:
    file = write(tmp_path / "a.csv", big_csv(row))
    corpus = open_corpus(str(file))
    with pytest.raises(DataError, match=r"row 30,001: line 30002: .*are fine: 30,000\. Nothing was written") as caught:
        list(corpus.records())
    assert "rejected.jsonl" in str(caught.value)
    assert caught.value.hint == "… --skip-broken"
    records, broken = skip(file)
    assert len(records) == 30_099
    assert [(entry.row, entry.source) for entry in broken] == [(30_001, "a.csv")]
    assert broken[0].raw.startswith(row[:4])
    assert records[30_000].row == 30_002


def test_a_quote_left_open_in_the_last_row_is_named_where_it_was_opened(tmp_path: Path) -> None:
    records, broken = skip(write(tmp_path / "a.csv", 'Q,A\n1,2\n"a,b\n3,4\n5,6'))
    assert [said(record)[0] for record in records] == ["1", "3", "5"]
    assert broken[0].row == 2 and broken[0].problem.startswith("line 3: a quote that was opened here")


def test_an_open_quote_that_happens_to_be_closed_below_loses_no_other_row(tmp_path: Path) -> None:
    records, broken = skip(write(tmp_path / "a.csv", 'Q,A\n"a,b\n3,",4,7\n5,6\n'))
    assert [row.row for row in broken] == [1, 2]
    assert [said(record) for record in records] == [["5", "6"]]


def test_a_line_too_long_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "CSV_LINE", 100)
    records, broken = skip(write(tmp_path / "a.csv", f"Q,A\n1,{'x' * 98}\n2,{'x' * 1000}\n3,4\n5,{'x' * 5000}"))
    assert [said(record)[0] for record in records] == ["1", "3"]
    assert [(row.row, row.problem) for row in broken] == [(n, f"line {n + 1}: longer than 100 characters") for n in (2, 4)]


def test_broken_lines_of_json_lines(tmp_path: Path) -> None:
    good = '{"Q": "a", "A": "b"}\n'
    deep = "[" * 100_000 + "\n"
    records, broken = skip(
        write(tmp_path / "a", good + '{"Q": "a", \n' + "\n" + "[1]\n" + deep + '{"Q": NaN, "A": "b"}\n' + '{"Q')
    )
    assert [record.row for record in records] == [1, 6]
    assert [row.row for row in broken] == [2, 4, 5, 7]
    with pytest.raises(DataError, match=r"row 2: line 2: not JSON"):
        read(tmp_path / "a")
    records, broken = skip(write(tmp_path / "b", '{"Q": "a"\n' + good * 2))
    assert [record.row for record in records] == [2, 3]


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        ('{"Q": "c", "A"', "the file ends in the middle"),
        ('{"Q" 1}, {"Q": "c", "A": "d"}]', "parse error"),
        ('{"Q": ' + "[" * 200, "inside one another"),
        ('{"Q": "' + "x" * 50_000 + '"}]', "longer than 20,000 bytes"),
    ],
)
def test_json_that_breaks_off_keeps_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, problem: str
) -> None:
    monkeypatch.setattr(json_entries, "JSON_ENTRY", 20_000)
    whole = '[{"Q": "a", "A": "b"}, {"Q": "c", "A": "d"}, '
    file = write(tmp_path / "a.json", whole + cut)
    records, broken = skip(file)
    assert [record.row for record in records] == [1, 2]
    assert len(broken) == 1
    assert broken[0].row == 3 and problem in broken[0].problem and "entry 3" in broken[0].problem
    assert f"to {len(whole + cut):,}) is lost" in broken[0].problem
    with pytest.raises(DataError, match=r"row 3: entry 3 .*are fine: 2"):
        read(file)


def test_json_with_two_lists_of_entries_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '{"train": [{"Q": "a", "A": "b"}], "info": {"a": {}}, "test": [{"Q": "c", "A": "d"}]}')
    with pytest.raises(DataError, match="more than one list"):
        read(file)


GIANT = """
import re, sys
from kosent.finetune.corpus import open_corpus
broken = []
corpus = open_corpus(sys.argv[1], on_broken=broken.append)
count = sum(1 for _ in corpus.records())
assert corpus.position() == corpus.size, corpus.position()
# not ru_maxrss: that begins with the memory of the process that started this one
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(count, len(broken), int(peak[1]) // 1024)
"""


@pytest.mark.parametrize(
    ("name", "head"), [("a.csv", "Q,A\na,b\n"), ("a.jsonl", '{"Q":"a","A":"b"}\n'), ("a.json", '[{"Q":"a","A":"b"},\n')]
)
def test_a_line_of_a_gigabyte_does_not_fill_the_memory(tmp_path: Path, name: str, head: str) -> None:
    file = write(tmp_path / name, head)
    with file.open("r+b") as sparse:
        sparse.truncate(1024**3)
    done = subprocess.run([sys.executable, "-c", GIANT, str(file)], capture_output=True, text=True, check=True)
    records, broken, megabytes = map(int, done.stdout.split())
    assert (records, broken) == (1, 1)
    assert megabytes < 300


def ole() -> bytes:
    return bytes.fromhex("D0CF11E0A1B11AE1") + bytes(600)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("감성대화.csv", "Q,A\n배고파,드세요\n")
    return buffer.getvalue()


BAD: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b"\n\n\n", "holds no text"),
    ("이름,나이\n가,1\n".encode(), r"no known format. Found: 이름, 나이. Rename(.|\n)*사람문장1"),
    (b'{"a": 1}', "Found: a. Rename"),
    (b"[]", "it holds no entries"),
    (b'[{"Q": ', "entry 1"),
    (b"[1, 2]", "entry 1: not a JSON object"),
    ("Q,A\n배고파,드세요\n".encode("utf-16-le"), "."),
    (b"Q\xff\xff\n", "not utf-8 and not cp949"),
    (b'"Q,A\n' + b"a,b\n" * 300, "line 1: a quote that was opened here"),
    (b"x" * 2_000_000, "longer than 1,048,576 characters"),
    (gzip.compress(b"Q,A"), "a gzip archive"),
    (b"%PDF-1.7 ", "a PDF document"),
    (ole(), "old or a password-protected Excel workbook"),
    (archive(), "a ZIP archive and no Excel workbook; it holds 감성대화.csv"),
    (archive()[:50], "cut off or damaged"),
    (b"PAR1" + bytes(100), "begins like Parquet but is cut off or damaged"),
]


@pytest.mark.parametrize(("content", "problem"), BAD, ids=[f"{n} {problem[:20]}" for n, (_, problem) in enumerate(BAD)])
def test_a_file_that_is_no_corpus_says_what_is_wrong(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_corpus(str(write(tmp_path / "corpus.csv", content)))


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "a.xlsx", b"")
    with pytest.raises(DataError, match="is a folder") as caught:
        open_corpus(str(tmp_path))
    assert caught.value.hint == f"ls {tmp_path}"
    with pytest.raises(DataError, match="There is no corpus file"):
        open_corpus(str(tmp_path / "no.csv"))


def test_a_prompt_beside_an_unknown_reply_is_not_taken_for_a_prompt_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known format"):
        open_corpus(str(write(tmp_path / "a.jsonl", '{"prompt": "p", "response": "r"}\n')))


def repacked(file: Path, change: Callable[[bytes], bytes]) -> None:
    """The second sheet of a workbook as `change` makes it."""
    with zipfile.ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, change(data) if name.endswith("sheet2.xml") else data)


def test_a_cut_or_damaged_workbook(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    as_xlsx(file, [{"Q": f"질문 {i}", "A": "답"} for i in range(2000)])
    whole = file.read_bytes()
    with pytest.raises(DataError, match="Excel workbook but is cut off") as caught:
        open_corpus(str(write(tmp_path / "b.xlsx", whole[: len(whole) // 2])))
    assert "save it again" in str(caught.value.hint)
    repacked(file, lambda sheet: sheet[: len(sheet) // 2])
    records, broken = skip(file)
    assert 900 < len(records) < 1100
    assert broken[0].row == records[-1].row + 1 and "the rest of the sheet is lost" in broken[0].problem
    with pytest.raises(DataError, match="the rest of the sheet is lost"):
        read(file)


def test_what_a_sheet_says_about_its_size_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    as_xlsx(file, [{"Q": 1.0, "A": None, "label": 2}] * 3)
    repacked(file, lambda sheet: sheet.replace(b'ref="A1:C4"', b'ref="A1"'))
    assert [said(record) for record in read(file)] == [["1", ""]] * 3


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    as_parquet(file, [{"Q": f"질문 {i}", "A": "답"} for i in range(50)])
    data = file.read_bytes()
    with pytest.raises(DataError, match="Parquet but is cut off"):
        open_corpus(str(write(tmp_path / "b", data[:-20])))
    records, broken = skip(write(tmp_path / "c", data[:4] + b"\xff" * 200 + data[204:]))
    assert records == [] and broken[0].row == 1 and "the rest of it is lost" in broken[0].problem
