"""Reading, cleaning and splitting corpora."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kosent.cli import main
from kosent.errors import DataError
from kosent.files import read_json, read_jsonl
from kosent.finetune.cleaning import SPLITS, clean_dialogues
from kosent.finetune.corpus import RawDialogue, read_corpus
from kosent.prompts import SYSTEM_MESSAGE
from kosent.text import clean, foreign_share, printable

HEADER = "연령,감정_대분류,사람문장1,시스템문장1,사람문장2,시스템문장2\n"


def raw(number: int, *pairs: tuple[str, str]) -> RawDialogue:
    return RawDialogue(f"corpus.csv:{number}", list(pairs), {"감정_대분류": "슬픔"})


def many(count: int) -> list[RawDialogue]:
    return [raw(i, (f"사람이 {i}번째로 하는 말이에요", f"그 {i}번째 말씀을 들었어요.")) for i in range(count)]


def test_the_starter_corpus_is_prepared_whole(tmp_path: Path) -> None:
    assert main(["prepare", "starter", "--output", str(tmp_path)]) == 0
    splits = {split: read_jsonl(tmp_path / f"{split}.jsonl") for split in SPLITS}
    assert sum(len(rows) for rows in splits.values()) == 240
    assert sum(m["role"] == "assistant" for row in splits["test"] for m in row["messages"]) >= 60
    assert all(row["messages"][0] == {"role": "system", "content": SYSTEM_MESSAGE} for row in splits["train"])
    assert read_jsonl(tmp_path / "rejected.jsonl") == []
    assert read_json(tmp_path / "report.json")["splits"]["train"]["dialogues"] == len(splits["train"])


@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-8", "utf-8-sig"])
def test_every_encoding_reads_the_same(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "corpus.csv"
    file.write_bytes((HEADER + "청년,슬픔,오늘 힘들었어,그러셨군요.,,\n").encode(encoding))
    dialogues, understood = read_corpus(str(file))
    assert dialogues[0].pairs == [("오늘 힘들었어", "그러셨군요."), ("", "")]
    assert dialogues[0].meta == {"연령": "청년", "감정_대분류": "슬픔"}
    assert "1 rows" in understood


def test_column_names_may_have_spaces_and_other_endings(tmp_path: Path) -> None:
    file = tmp_path / "corpus.csv"
    file.write_text("번호,사람문장 1,시스템응답 1\n1,안녕하세요 반가워요,네 반가워요.\n", encoding="utf-8")
    assert read_corpus(str(file))[0][0].pairs == [("안녕하세요 반가워요", "네 반가워요.")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        ("이름,나이\n가,1\n".encode(), "사람문장1"),
        (b"\xff\xfe\x00bad", "neither UTF-8 nor cp949"),
        (HEADER.encode() + b'"open quote', "line 2"),
    ],
)
def test_a_file_that_is_no_corpus_says_what_is_wrong(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "corpus.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_corpus(str(file))


def test_a_missing_file_is_an_error_with_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(tmp_path / "no.csv"), "--output", str(tmp_path / "out")]) == 3
    assert "Try: kosent prepare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [("0.6", "0.5"), ("-0.1", "0.2")])
def test_impossible_shares_are_refused(tmp_path: Path, shares: tuple[str, str]) -> None:
    command = ["prepare", "starter", "--output", str(tmp_path / "o"), "--validation", shares[0], "--test", shares[1]]
    assert main(command) == 2


def test_a_corpus_too_small_to_split_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "corpus.csv"
    file.write_text(HEADER + "청년,슬픔,오늘 힘들었어,그러셨군요.,,\n", encoding="utf-8")
    assert main(["prepare", str(file), "--output", str(tmp_path / "out")]) == 3
    assert "none is left for" in capsys.readouterr().err


def test_splits_do_not_depend_on_order_and_stay_under_growth() -> None:
    def places(raws: list[RawDialogue]) -> dict[str, str]:
        rows = clean_dialogues(raws, "", validation=0.1, test=0.2).rows
        return {row["meta"]["source"]: split for split, entries in rows.items() for row in entries}

    before = places(many(200))
    shuffled = many(200)
    random.Random(1).shuffle(shuffled)
    assert places(shuffled) == before
    after = places(many(300))
    assert {source: after[source] for source in before} == before
    assert 0.1 < list(before.values()).count("test") / 200 < 0.3


def test_what_is_rejected_is_kept_with_its_reason() -> None:
    good = many(50)
    bad = [
        raw(900, ("", "대답만 있어요.")),
        raw(901, ("오늘은 今日はとても疲れた", "네 그렇군요.")),
        raw(902, ("사람이 3번째로 하는 말이에요!", "그 3번째 말씀을, 들었어요")),
    ]
    outcome = clean_dialogues(good + bad, "", validation=0.1, test=0.2)
    assert [(row["reason"], row["source"]) for row in outcome.rejected] == [
        ("empty", "corpus.csv:900"),
        ("foreign", "corpus.csv:901"),
        ("duplicate", "corpus.csv:902"),
    ]
    assert outcome.counts["rejected: empty"] == 1


def test_a_training_dialogue_that_shares_an_utterance_with_the_test_is_left_out() -> None:
    shared = "같은 말을 두 번 하는 사람이에요"
    raws = [raw(i, (shared, f"{i}번째 다른 대답이에요.")) for i in range(40)]
    outcome = clean_dialogues(raws, "", validation=0.1, test=0.2)
    assert outcome.rows["train"] == []
    assert outcome.rows["test"]
    assert outcome.counts["rejected: leak"] == len(outcome.rejected) > 0


def test_a_dialogue_ends_before_its_first_empty_turn() -> None:
    outcome = clean_dialogues([raw(1, ("하나예요", "네."), ("", ""), ("셋이에요", "네."))], "", validation=0.0, test=0.0)
    assert [m["content"] for m in outcome.rows["train"][0]["messages"]] == ["하나예요", "네."]


CLEAN = [
    ("  두  칸\t띄고 ", "두 칸 띄고"),
    ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
    ("제로\u200b폭\ufeff", "제로폭"),
    ("빨강\x1b[31m글자\x07", "빨강글자"),
    ("ㅋㅋ ㅠㅠ OK", "ㅋㅋ ㅠㅠ OK"),
]


@pytest.mark.parametrize(("text", "expected"), CLEAN)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b31m", "\x1b", "a\x1b]0;title", "\r\x08"])
def test_nothing_printable_can_move_a_terminal(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in printable(text))


def test_foreign_share_counts_letters_that_are_neither_hangul_nor_latin() -> None:
    assert foreign_share("안녕 hello ㅋㅋ 123") == 0.0
    assert foreign_share("가나 漢字") == 0.5


def test_interrupting_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kosent import files

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "train.jsonl"
    target.write_text("old", encoding="utf-8")
    replace: Callable[..., None] = interrupted
    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]
