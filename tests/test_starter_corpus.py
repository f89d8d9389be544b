"""The starter corpus keeps its promises: size, balance, form, and no two replies alike."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter

from kosent.starter import corpus_path

COLUMNS = [
    *("연령", "성별", "상황키워드", "신체질환", "감정_대분류", "감정_소분류"),
    *("사람문장1", "시스템문장1", "사람문장2", "시스템문장2", "사람문장3", "시스템문장3"),
]
SAYINGS = [f"{who}문장{number}" for number in (1, 2, 3) for who in ("사람", "시스템")]
ADVICE = ("힘내세요", "전문가", "상담을 받", "병원에 가", "우울증", "AI", "챗봇", "하셔야 합니다", "해야 해요")


def rows() -> list[dict[str, str]]:
    with corpus_path().open(encoding="cp949", newline="") as file:
        return list(csv.DictReader(file))


def replies() -> list[str]:
    return [row[f"시스템문장{number}"] for row in rows() for number in (1, 2, 3) if row[f"시스템문장{number}"]]


def test_form_size_and_balance() -> None:
    found = rows()
    assert list(found[0]) == COLUMNS
    assert len(found) == 240
    assert Counter(row["감정_대분류"] for row in found) == {e: 40 for e in ("기쁨", "당황", "분노", "불안", "상처", "슬픔")}
    assert min(Counter(row["연령"] for row in found).values()) >= 40
    assert set(Counter(row["성별"] for row in found)) == {"남성", "여성"}
    assert len({row["상황키워드"] for row in found}) >= 10
    assert len({row["감정_소분류"] for row in found}) >= 50


def test_turns_come_in_pairs_and_some_third_turns_are_empty() -> None:
    empty = 0
    for row in rows():
        said = [bool(row[name].strip()) for name in SAYINGS]
        assert said[:4] == [True] * 4
        assert said[4] == said[5]
        empty += not said[4]
    assert 20 <= empty <= 60


def test_no_two_replies_are_alike() -> None:
    words = [frozenset(re.findall(r"\w+", reply)) for reply in replies()]
    assert len(set(replies())) == len(words)
    worst = max(len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2))
    assert worst <= 0.5


def test_most_replies_open_differently() -> None:
    first_words = Counter(reply.split()[0] for reply in replies())
    assert len(first_words) / len(replies()) >= 0.7


def test_replies_are_polite_short_and_do_not_lecture() -> None:
    for reply in replies():
        assert re.search(r"(요|죠|까요|네요|지요|군요)[.?!]$|다[.]$", reply), reply
        assert len(reply) <= 80, reply
        assert not any(word in reply for word in ADVICE), reply
