"""The cleaning rules: what each finds, what each leaves alone, and how they are switched."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from kosent.cli import main
from kosent.errors import UsageError
from kosent.files import read_json, read_jsonl
from kosent.finetune.cleaning import Cleaner
from kosent.finetune.duplicates import DuplicateIndex
from kosent.finetune.personal import mask_personal
from kosent.finetune.records import Record
from kosent.finetune.rules import RULES, CleaningSettings, resolve_settings, switched_on
from kosent.finetune.text_rules import Reject, check_script, fix_encoding, limit_repetition
from kosent.text import clean, foreign_share, printable

SETTINGS = CleaningSettings()
CORPORA = ROOT / "tests" / "corpora"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """200 difficult clean dialogues and the planted faults, prepared together with every rule on."""
    folder = tmp_path_factory.mktemp("planted")
    difficult, faults = (read_jsonl(CORPORA / name) for name in ("difficult.jsonl", "faults.jsonl"))
    rows = [[{"role": "user", "content": row["user"]}, {"role": "assistant", "content": row["assistant"]}] for row in difficult]
    rows += [row["messages"] for row in faults]
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in rows]
    (folder / "corpus.jsonl").write_text("\n".join([*lines, '{"messages": [{"role": "user", "con']) + "\n", encoding="utf-8")
    assert main(["prepare", str(folder / "corpus.jsonl"), "--output", str(folder / "data"), "--skip-broken"]) == 0
    data = {name: read_jsonl(folder / "data" / f"{name}.jsonl") for name in ("rejected", "changed", "contradictions")}
    acted: dict[int, set[tuple[str, str]]] = {}
    for name in ("rejected", "changed"):
        for row in data[name]:
            acted.setdefault(row["row"], set()).add((row["rule"], name))
    return data | {
        "difficult": difficult, "faults": faults, "acted": acted, "folder": folder / "data",
        "report": read_json(folder / "data" / "report.json"),
    }  # fmt: skip


def test_every_planted_fault_is_found_by_the_rule_that_should(planted: dict[str, Any]) -> None:
    single = [
        (number, fault) for number, fault in enumerate(planted["faults"], 201) if fault["action"] in ("rejected", "changed")
    ]
    assert len(single) >= 25
    for number, fault in single:
        assert planted["acted"].get(number) == {(fault["rule"], fault["action"])}, fault["what"]
    assert planted["acted"][201 + len(planted["faults"])] == {("unreadable", "rejected")}


def test_none_of_200_difficult_clean_dialogues_is_touched(planted: dict[str, Any]) -> None:
    assert len(planted["difficult"]) == 200
    assert [planted["difficult"][number - 1] for number in planted["acted"] if number <= 200] == []
    kept = [row for split in ("train", "validation", "test") for row in read_jsonl(planted["folder"] / f"{split}.jsonl")]
    said = {(row["messages"][1]["content"], row["messages"][2]["content"]) for row in kept}
    assert {(row["user"], row["assistant"]) for row in planted["difficult"]} <= said


def test_faults_of_many_rows_are_found(planted: dict[str, Any]) -> None:
    numbers: dict[str, list[int]] = {}
    for number, fault in enumerate(planted["faults"], 201):
        numbers.setdefault(fault["rule"], []).append(number)
    acted = Counter(rule for number in numbers["frequent"] + numbers["leak"] for rule, _ in planted["acted"].get(number, ()))
    assert acted == {"frequent": len(numbers["frequent"]) - SETTINGS.frequent_min_count, "leak": len(numbers["leak"]) - 1}
    assert [(entry["question"], entry["opposed"]) for entry in planted["contradictions"]] == [("전 애인한테 연락해도 될까", True)]
    assert [answer["row"] for answer in planted["contradictions"][0]["answers"]] == numbers["contradiction"]


def test_the_counts_of_the_report_are_those_of_the_files(planted: dict[str, Any]) -> None:
    report = planted["report"]
    for rule in report["rules"]:
        assert rule["rejected"] == sum(row["rule"] == rule["name"] for row in planted["rejected"])
        assert rule["changed"] == len({row["row"] for row in planted["changed"] if row["rule"] == rule["name"]})
        assert bool(rule["examples"]) == bool(rule["rejected"] or rule["changed"])
    totals = report["totals"]
    assert totals["records"] == totals["kept"] + totals["rejected"]
    assert report["leakage"] == {"train_validation": 0, "train_test": 0, "validation_test": 0, "left_out": 13}


def test_examples_in_the_report_do_not_show_personal_data(planted: dict[str, Any]) -> None:
    page = (planted["folder"] / "report.html").read_text(encoding="utf-8")
    for secret in ("1234567", "1234-5678", "hong.gildong", "4111", "123456-04", "월드컵북로"):
        assert secret not in page.replace("<del>", "").replace("</del>", ""), secret


MASKED = [
    ("번호는 010-1234-5678이야", "번호는 <전화번호>이야"),
    ("01012345678로 문자해", "<전화번호>로 문자해"),
    ("010.1234.5678", "<전화번호>"),
    ("+82 10-1234-5678", "<전화번호>"),
    ("02-123-4567로 걸어", "<전화번호>로 걸어"),
    ("공일공에 일이삼사에 오육칠팔이야", "<전화번호>이야"),
    ("900101-1234567", "<주민등록번호>"),
    ("9001011234567", "<주민등록번호>"),
    ("메일은 a.b@c.co.kr이야", "메일은 <이메일>이야"),
    ("1234-5678-9012-3456", "<카드번호>"),
    ("4111111111111111", "<카드번호>"),
    ("신한은행 110-123-456789로", "신한은행 <계좌번호>로"),
    ("서울시 강남구 테헤란로 123에 살아", "<주소>에 살아"),
    ("수원시 팔달구 인계동 1123-4번지", "<주소>"),
    ("우리 집은 101동 1203호야", "우리 집은 <주소>야"),
]


@pytest.mark.parametrize(("text", "expected"), MASKED)
def test_personal_data_is_masked_by_its_kind(text: str, expected: str) -> None:
    assert mask_personal(text) == expected


@pytest.mark.parametrize(
    "text",
    ["109", "1577-0199", "1588-0000에 전화", "2024-03-15", "1,200,000원", "종로 3가에서", "여자친구 앞으로 5년", "12-25",
     "4111111111111112", "주문번호 20240315", "서울 집으로 3시간 걸려", "부산 해운대구 우동 3년 살았어", "@친구 봐", "101동"],
)  # fmt: skip
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert mask_personal(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "오늘は 힘들어",
        "기분이 好해요",
        "привет 안녕",
        "나는 감정을 理解 합니다 정말로요",
        "ขอบคุณ 고마워요 정말 고마워요 너무너무",
    ],
)
def test_foreign_script_is_rejected(text: str) -> None:
    assert isinstance(check_script(text, SETTINGS), Reject)


@pytest.mark.parametrize(
    "text",
    ["사과(謝過)를 못 했어", "α세대라며", "36.5℃", 'he said "I am so tired of all this"래', "OK", "故 김 선생님 생각이 났어요"],
)
def test_foreign_letters_in_their_place_stay(text: str) -> None:
    assert check_script(text, SETTINGS) == text


HELLO = "안녕하세요 반가워요"


@pytest.mark.parametrize(("written", "read"), [("cp949", "latin-1"), ("utf-8", "latin-1")])
def test_text_read_in_the_wrong_encoding_is_put_right(written: str, read: str) -> None:
    assert fix_encoding(HELLO.encode(written).decode(read)) == HELLO


@pytest.mark.parametrize("text", ["짜장면", "Café 가자", "Beyoncé", "뭐??", "R&B 좋아해", "???", "뭐?? 진짜?? 정말??"])
def test_text_in_the_right_encoding_stays(text: str) -> None:
    assert fix_encoding(text) == text


def test_lost_letters_are_rejected() -> None:
    for text in ("안\ufffd 녕", "占쏙옙", "?? ??? ???? ??", HELLO.encode("utf-8").decode("cp949", "replace")):
        assert isinstance(fix_encoding(text), Reject), text


def test_laughter_is_kept_to_taste() -> None:
    assert limit_repetition("ㅋㅋㅋㅋㅋㅋ", SETTINGS) == "ㅋㅋㅋㅋㅋㅋ"
    assert limit_repetition("ㅋㅋㅋㅋㅋㅋ", resolve_settings(["repetition.laughter=3"])) == "ㅋㅋㅋ"
    assert limit_repetition("1000000000000원", SETTINGS) == "1000000000000원"


CLEAN = [
    ("  두  칸\t띄고 ", "두 칸 띄고"),
    ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
    ("제로\u200b폭\ufeff", "제로폭"),
    ("빨강\x1b[31m글자\x07", "빨강글자"),
    ("ㅋㅋ ㅠㅠ OK", "ㅋㅋ ㅠㅠ OK"),
    ("한 줄\r\n두  줄 \n\n\n\n세 줄", "한 줄\n두 줄\n\n세 줄"),
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


def dialogue(*texts: str) -> Record:
    roles = ("user", "assistant")
    return Record("c.csv", 1, [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)])


def test_a_dialogue_ends_before_its_first_empty_turn() -> None:
    outcome = Cleaner(SETTINGS, switched_on([]))(dialogue("하나예요", "네.", "", "", "셋이에요", "네."))
    assert outcome.turns == [("user", "하나예요"), ("assistant", "네.")]
    assert [change.rule for change in outcome.changes] == ["empty"]


def test_a_rule_that_is_off_does_nothing() -> None:
    cleaner = Cleaner(SETTINGS, switched_on(["script,personal", "repetition"]))
    texts = ("오늘は 힘들어 010-1234-5678", "네 " * 30 + "네")
    outcome = cleaner(dialogue(*texts))
    assert (outcome.rule, outcome.changes, tuple(text for _, text in outcome.turns)) == ("", [], texts)


@pytest.mark.parametrize(("names", "problem"), [(["spelling"], "no such rule"), (["unreadable"], "cannot be switched off")])
def test_rules_that_cannot_be_switched_off_are_named(names: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        switched_on(names)
    assert switched_on(["all"]) < set(RULES)


@pytest.mark.parametrize("change", ["near", "near.limit=1", "near.threshold=high", "length.max_tokens=-1", "near.threshold=nan"])
def test_a_number_that_cannot_be_right_is_refused(change: str) -> None:
    with pytest.raises(UsageError, match=change.partition("=")[0]):
        resolve_settings([change])


def test_near_duplicates_are_judged_by_their_letters() -> None:
    index = DuplicateIndex(exact=True, near=True, threshold=0.85)
    text = "오늘은 회사에서 정말 크게 혼이 나서 하루 종일 마음이 무거웠어요"
    assert index.find(text, 1) is None
    assert index.find(text, 2) == ("duplicate", 1, 1.0)
    found = index.find(text + "요", 3)
    assert found is not None and found[:2] == ("near", 1) and 0.9 < found[2] < 1
    assert index.find("오늘은 학교에서 정말 크게 웃어서 하루 종일 마음이 가벼웠어요", 4) is None


def test_no_near_duplicate_slips_through_and_no_other_row_is_taken_for_one() -> None:
    """Against counting every pair: MinHash may only propose."""
    import random

    chance = random.Random(7)
    syllables = [chr(0xAC00 + chance.randrange(11172)) for _ in range(300)]
    texts = ["".join(chance.choices(syllables, k=40)) for _ in range(150)]
    for text in texts[:100]:
        place = chance.randrange(40)
        texts.append(text[:place] + "".join(chance.choices(syllables, k=chance.randrange(1, 4))) + text[place:])
    index = DuplicateIndex(exact=True, near=True, threshold=0.85)
    kept: list[set[str]] = []
    for number, text in enumerate(texts):
        trigrams = {text[i : i + 3] for i in range(len(text) - 2)}
        expected = any(len(trigrams & other) / len(trigrams | other) >= 0.85 for other in kept)
        assert (index.find(text, number) is not None) == expected
        if not expected:
            kept.append(trigrams)
    assert 150 < len(kept) < 250


def test_the_rules_in_the_help_are_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    help_text = capsys.readouterr().out
    for name in RULES:
        assert f"  {name} " in help_text


def test_the_corpora_of_this_test_are_as_described(tmp_path: Path) -> None:
    kinds = Counter(row["kind"] for row in read_jsonl(CORPORA / "difficult.jsonl"))
    assert len(kinds) == 10 and set(kinds.values()) == {20}
    assert {fault["rule"] for fault in read_jsonl(CORPORA / "faults.jsonl")} == set(RULES) - {
        "unreadable",
        "preference",
        "balance",
    } | {"original"}
