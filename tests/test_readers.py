"""Reading good corpus files: every kind of file, every encoding and every format. Bad ones are in `test_broken_files`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus_files import (
    Rows,
    as_csv,
    as_json,
    as_json_object,
    as_jsonl,
    as_one_object,
    as_parquet,
    as_short_object,
    as_xlsx,
    read,
    said,
    skip,
    write,
)
from kosent import extras
from kosent.errors import DataError, MissingExtraError, UsageError
from kosent.finetune.corpus import FORMATS, open_corpus

HEADER = "연령,감정_대분류,사람문장1,시스템문장1,사람문장2,시스템문장2\n"
GOOD = HEADER + "청년,슬픔,오늘 힘들었어,그러셨군요.,,\n"
FLAT = (as_csv, as_xlsx, as_parquet, as_json, as_json_object, as_short_object, as_jsonl, as_one_object)
NESTED = (as_parquet, as_json, as_json_object, as_short_object, as_jsonl, as_one_object)


@pytest.mark.parametrize("save", FLAT)
def test_a_flat_format_comes_in_every_container(tmp_path: Path, save: Callable[[Path, Rows], None]) -> None:
    file = tmp_path / "no.suffix"
    rows: Rows = [{"Q": "배고파", "A": "뭐라도 드세요.", "label": 1.0}, {"Q": "심심해", "A": "저도요.", "label": 0}]
    save(file, rows)
    corpus = open_corpus(str(file))
    records = list(corpus.records())
    assert corpus.format == "songys"
    assert said(records[0]) == ["배고파", "뭐라도 드세요."]
    assert records[0].meta["label"] in {"1", "1.0"} if save is as_csv else records[0].meta == {"label": "1"}
    assert [record.row for record in records] == list(range(1, len(records) + 1))
    assert len(records) == (1 if save is as_one_object else 2)
    assert corpus.position() == corpus.size == file.stat().st_size
    assert list(corpus.records()) == records


@pytest.mark.parametrize("save", NESTED)
def test_a_nested_format_comes_in_every_container_that_can_hold_it(tmp_path: Path, save: Callable[[Path, Rows], None]) -> None:
    file = tmp_path / "corpus.csv"
    messages = [
        {"role": "developer", "content": "친절하게"},
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "네"},
    ]
    save(file, [{"messages": messages, "id": 3, "meta": {"감정_대분류": "기쁨"}}] * 2)
    record = read(file)[0]
    assert [message["role"] for message in record.messages] == ["system", "user", "assistant"]
    assert record.meta == {"id": 3, "감정_대분류": "기쁨"}


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_every_encoding_reads_the_same(tmp_path: Path, encoding: str, kind: str) -> None:
    row = {"연령": "청년", "감정_대분류": "슬픔", "사람문장1": "오늘 힘들었어", "시스템문장1": "그러셨군요.", "사람문장2": ""}
    line = json.dumps(row, ensure_ascii=False)
    content = {"csv": GOOD, "json": f"[{line}]", "jsonl": f"{line}\n{line}\n"}[kind]
    record = read(write(tmp_path / "corpus", content, encoding))[0]
    assert said(record) == ["오늘 힘들었어", "그러셨군요."]
    assert record.meta == {"연령": "청년", "감정_대분류": "슬픔"}


def test_cp949_that_begins_late_is_found(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", b"Q,A\n" + b"hello,hi\n" * 150_000 + "배고파,드세요\n".encode("cp949"))
    corpus = open_corpus(str(file))
    assert "cp949" in corpus.understood
    assert said(list(corpus.records())[-1]) == ["배고파", "드세요"]


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "Q,A\n배고파,드세요\n", "johab")
    assert said(read(file, encoding="johab")[0]) == ["배고파", "드세요"]
    with pytest.raises(UsageError, match="no encoding nonsense"):
        open_corpus(str(file), encoding="nonsense")
    with pytest.raises(DataError, match="is not utf-8: byte 4 in line 2") as caught:
        open_corpus(str(file), encoding="utf-8")
    assert "Leave --encoding out" in str(caught.value)


def test_column_names_may_have_spaces_and_other_endings(tmp_path: Path) -> None:
    content = "\ufeff번호;사람응답 01;시스템 문장 1;사람문장 2;감정 대분류;감정소분류\n1;안녕;네;또 봐;기쁨; 신이 난 \n"
    corpus = open_corpus(str(write(tmp_path / "감성대화.csv", content)))
    (record,) = corpus.records()
    assert said(record) == ["안녕", "네", "또 봐", ""]
    assert record.meta == {"감정_대분류": "기쁨", "감정_소분류": "신이 난"}
    assert corpus.understood == (
        "감성대화.csv: AI Hub 감성대화말뭉치, CSV with semicolons, utf-8; "
        "turns from 사람문장1..2 / 시스템문장1..2; ignored columns: 번호"
    )


def test_empty_turns_stay_but_not_at_the_end(tmp_path: Path) -> None:
    content = "사람문장1,시스템문장1,사람문장2,시스템문장2,사람문장3,시스템문장3\n가,,,나\n"
    assert said(read(write(tmp_path / "a.csv", content))[0]) == ["가", "", "", "나"]


def test_the_json_of_aihub(tmp_path: Path) -> None:
    content = {"HS02": "둘", "SS02": "넷", "HS01": "하나", "SS01": "네", "HS03": "", "SS03": ""}
    profile = {"persona": {"human": ["A02", "G02"]}, "emotion": {"type": "E18"}}
    odd = {"persona": {"human": ["A09", "G01"]}, "emotion": {"type": "X1"}}
    as_json(tmp_path / "a.json", [{"profile": p, "talk": {"content": content}} for p in (profile, odd, None)])
    first, second, third = read(tmp_path / "a.json")
    assert said(first) == ["하나", "네", "둘", "넷"]
    assert first.meta == {"연령": "청년", "성별": "여성", "감정_대분류": "분노", "감정_소분류": "E18"}
    assert second.meta == {"연령": "A09", "성별": "남성", "감정_대분류": "X1", "감정_소분류": "X1"}
    assert third.meta == {}


def test_wellness_gives_a_reply_of_the_same_category(tmp_path: Path) -> None:
    cells = [("잠", "못 자", None), ("잠", "안 와", "힘들죠"), ("잠", "꿈", "무서웠죠"), ("잠", "낮잠", None),
             ("잠", "늦잠", None), ("잠", "새벽", None), ("일", "야근", None)]  # fmt: skip
    as_xlsx(tmp_path / "w.xlsx", [dict(zip(("구분", "유저", "챗봇"), row, strict=True)) for row in cells], above=3)
    corpus = open_corpus(str(tmp_path / "w.xlsx"))
    records = list(corpus.records())
    assert "sheet 말뭉치" in corpus.understood
    assert [said(record)[1] for record in records] == ["", "힘들죠", "무서웠죠", "힘들죠", "무서웠죠", "힘들죠", ""]
    assert records[3].meta == {"category": "잠", "reply": "from the same category"}
    assert records[1].meta == {"category": "잠"}


def test_the_three_files_of_kochatgpt(tmp_path: Path) -> None:
    as_json(tmp_path / "1.jsonl", [{"prompt": "불고기용 고기?", "completion": "저는 몰라요.", "tokens": 5}])
    as_json(tmp_path / "2.jsonl", [{"prompt": "p", **{f"completion_{i}": f"c{i}" for i in range(3)}, "ranking": [2, 0, 1]}])
    as_json(tmp_path / "3.jsonl", [{"prompt": "번데기 직업?"}])
    assert said(read(tmp_path / "1.jsonl")[0]) == ["불고기용 고기?", "저는 몰라요."]
    pairs = read(tmp_path / "2.jsonl")
    assert sorted((pair.chosen, pair.rejected) for pair in pairs) == [("c1", "c0"), ("c1", "c2"), ("c2", "c0")]
    assert all(pair.kind == "preference" and said(pair) == ["p"] for pair in pairs)
    (prompt,) = read(tmp_path / "3.jsonl")
    assert prompt.kind == "prompt" and said(prompt) == ["번데기 직업?"]


def test_preferences_of_text_and_of_messages(tmp_path: Path) -> None:
    asked, good, bad = ({"role": r, "content": c} for r, c in (("user", "왜?"), ("assistant", "좋아서"), ("assistant", "몰라")))
    rows: Rows = [
        {"prompt": "왜?", "chosen": "좋아서", "rejected": "몰라"},
        {"prompt": [asked], "chosen": [good], "rejected": [bad]},
        {"chosen": [asked, good], "rejected": [asked, bad]},
    ]
    as_jsonl(tmp_path / "a", [*rows, {"chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": [asked], "rejected": "b"}])
    records, broken = skip(tmp_path / "a")
    assert [(record.kind, said(record), record.chosen, record.rejected) for record in records] == [
        ("preference", ["왜?"], "좋아서", "몰라")
    ] * 3
    assert [row.row for row in broken] == [4, 5]


def test_sharegpt_and_alpaca(tmp_path: Path) -> None:
    turns = [{"from": who, "value": who} for who in ("system", "human", "gpt", "user", "chatgpt", "user", "bot")]
    as_jsonl(tmp_path / "s", [{"id": "1", "conversations": turns}, {"conversations": [{"from": "alien", "value": "?"}]}])
    records, broken = skip(tmp_path / "s")
    assert [message["role"] for message in records[0].messages] == ["system", *("user", "assistant") * 3]
    assert "alien" in broken[0].problem
    as_json(tmp_path / "a", [{"instruction": "번역", "input": "hi", "output": "안녕", "system": "s", "history": [["q", "a"]]}])
    assert said(read(tmp_path / "a")[0]) == ["s", "q", "a", "번역\n\nhi", "안녕"]


def test_quoted_cells_may_run_over_lines_and_short_rows_are_filled(tmp_path: Path) -> None:
    content = 'Q\tA\tlabel\r\n"두\r\n줄"\t"그가 ""네"" 했다"\t1\r\n\r\n혼자\r\n'
    records = read(write(tmp_path / "a.tsv", "  \r\n" + content))
    assert [said(record) for record in records] == [["두\r\n줄", '그가 "네" 했다'], ["혼자", ""]]
    assert [record.row for record in records] == [1, 2]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_line_end_is_understood(tmp_path: Path, newline: str) -> None:
    assert len(read(write(tmp_path / "a.csv", newline.join(["Q,A", "a,b", "c,d"])))) == 2


def test_what_needs_the_extra_says_so_and_the_rest_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.MODULES, "prepare", ("no_such_module",))
    rows: Rows = [{"Q": "a", "A": "b"}]
    for save in (as_csv, as_jsonl):
        save(tmp_path / "a", rows)
        assert len(read(tmp_path / "a")) == 1
    for save in (as_json, as_json_object, as_xlsx, as_parquet):
        save(tmp_path / "a", rows)
        with pytest.raises(MissingExtraError) as caught:
            open_corpus(str(tmp_path / "a"))
        assert caught.value.hint == "pip install 'kosent[prepare]'"


def test_a_format_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "prompt,completion,Q,A\n1,2,3,4\n")
    assert open_corpus(str(file)).format == "kochatgpt-sft"
    assert said(read(file, format="songys")[0]) == ["3", "4"]
    with pytest.raises(DataError, match="lacks 사람문장1, 시스템문장1; found: prompt, completion, Q, A"):
        open_corpus(str(file), format="aihub")
    with pytest.raises(UsageError, match="no format nonsense"):
        open_corpus(str(file), format="nonsense")
    with pytest.raises(DataError, match="is read from JSON"):
        open_corpus(str(write(tmp_path / "b.csv", "messages\n[]\n")), format="messages")
    assert set(FORMATS) >= {"aihub", "wellness", "preference"}


def test_the_starter_corpus_is_read() -> None:
    corpus = open_corpus("starter")
    assert corpus.format == "aihub" and "cp949" in corpus.understood
    assert len(list(corpus.records())) == 240
