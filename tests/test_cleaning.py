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
from kosent.finetune.duplicates import DuplicateIndex, trigrams
from kosent.finetune.records import Record
from kosent.finetune.rules import RULES, CleaningSettings, resolve_settings, switched_on
from kosent.text import clean, printable

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
    for secret in ("900101", "1234567", "1234-5678", "hong.gildong", "4111", "123456-04", "월드컵북로"):
        assert secret not in page.replace("<del>", "").replace("</del>", ""), secret


CLEAN = [
    ("  두  칸\t띄고 ", "두 칸 띄고"),
    ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
    ("제로\u200b폭\ufeff", "제로폭"),
    ("빨강\x1b[31m글자\x07", "빨강글자"),
    ("ㅋㅋ ㅠㅠ OK", "ㅋㅋ ㅠㅠ OK"),
    ("한 줄\r\n두  줄 \n\n\n\n세 줄", "한 줄\n두 줄\n\n세 줄"),
    ("네  이래요\n```python\ndef f():\n    return  1\n```\n  끝", "네 이래요\n```python\ndef f():\n    return 1\n```\n끝"),
]


@pytest.mark.parametrize(("text", "expected"), CLEAN)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b31m", "\x1b", "a\x1b]0;title", "\x08"])
def test_nothing_printable_can_move_a_terminal(text: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in printable(text))


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
    assert switched_on(["near, script", ""]) == set(RULES) - {"near", "script"}


@pytest.mark.parametrize(
    "change",
    [
        "near",
        "near.limit=1",
        "near.threshold=high",
        "length.max_tokens=-1",
        "near.threshold=nan",
        "near.threshold=85",
        "near.threshold=0",
        "frequent.max_reply=5",
    ],
)
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
        texts.append(text[:place] + "".join(chance.choices(syllables, k=chance.randrange(1, 6))) + text[place:])
    index = DuplicateIndex(exact=True, near=True, threshold=0.85)
    kept: list[set[str]] = []
    for number, text in enumerate(texts):
        own = trigrams(text)
        expected = any(len(own & other) / len(own | other) >= 0.85 for other in kept)
        assert (index.find(text, number) is not None) == expected
        if not expected:
            kept.append(own)
    assert 150 < len(kept) < 250


def test_what_denies_is_not_nearly_what_does_not(tmp_path: Path) -> None:
    rest = "그래도 몸이 보내는 신호를 잘 살피면서 무리하지 말고 천천히 하루를 보내시면 좋겠다고 생각해요"
    rows = [("약을 먹는데 술을 마셔도 될까", f"괜찮습니다. {rest}"), ("약을 먹는데 술을 마셔도 될까", f"안 괜찮습니다. {rest}")]
    rows += [(f"{i}번째 다른 질문이에요", f"{i}번 대답이에요") for i in range(60)]
    lines = [json.dumps({"Q": question, "A": answer}, ensure_ascii=False) for question, answer in rows]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert main(["prepare", str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "data"), "--without", "leak"]) == 0
    assert not [row for row in read_jsonl(tmp_path / "data" / "rejected.jsonl") if row["row"] <= 2]
    assert [entry["opposed"] for entry in read_jsonl(tmp_path / "data" / "contradictions.jsonl")] == [True]


def test_copies_within_a_family_of_templates_are_all_found_and_the_family_stays() -> None:
    index = DuplicateIndex(exact=True, near=True, threshold=0.85)
    import random

    chance = random.Random(3)
    syllables = [chr(0xAC00 + chance.randrange(11172)) for _ in range(200)]
    template = chance.choices(syllables, k=60)
    family = []
    for _ in range(300):
        text = list(template)
        for place in chance.sample(range(60), 6):
            text[place] = chance.choice(syllables)
        family.append("".join(text))
    found = [index.find(text, number) for number, text in enumerate(family)]
    own = list(map(trigrams, family))
    kept = [number for number, one in enumerate(found) if one is None]
    assert len(kept) > 250
    for number in kept:
        assert all(len(own[number] & own[other]) / len(own[number] | own[other]) < 0.85 for other in kept if other < number)
    copies = [text[:-1] + "끝" for number, text in enumerate(family) if found[number] is None]
    assert all(index.find(text, 1000 + number) for number, text in enumerate(copies))


def test_with_exact_duplicates_allowed_near_ones_are_still_found() -> None:
    index = DuplicateIndex(exact=False, near=True, threshold=0.85)
    text = "오늘은 회사에서 정말 크게 혼이 나서 하루 종일 마음이 무거웠어요"
    assert index.find(text, 1) is None and index.find(text, 2) is None
    assert index.find(text + "요", 3) is not None


def test_an_utterance_without_end_is_not_looked_at() -> None:
    outcome = Cleaner(SETTINGS, switched_on([]))(dialogue("하나", "가" * 30_000))
    assert (outcome.rule, "30,000" in outcome.why) == ("unreadable", True)


def test_an_empty_greeting_is_no_reason_to_lose_a_dialogue() -> None:
    messages = [
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "네."},
    ]
    outcome = Cleaner(SETTINGS, switched_on([]))(Record("c.csv", 1, messages))
    assert not outcome.rule and outcome.turns == [("user", "안녕"), ("assistant", "네.")]
    assert [change.rule for change in outcome.changes] == ["empty"]
    assert Cleaner(SETTINGS, switched_on([]))(Record("c.csv", 1, messages[:1])).rule == "empty"
    system = [{"role": "system", "content": "너는 친구야."}, *messages]
    assert [role for role, _ in Cleaner(SETTINGS, switched_on([]))(Record("c.csv", 1, system)).turns] == [
        "system",
        "user",
        "assistant",
    ]


def test_before_and_after_in_the_report_are_before_and_after(planted: dict[str, Any]) -> None:
    report = planted["report"]
    assert sum(report["lengths"]["user"]["before"][5:]) > sum(report["lengths"]["user"]["after"][5:])  # eighty ㅋ
    changed = {row["row"] for row in planted["changed"]} - {row["row"] for row in planted["rejected"]}
    assert report["totals"]["changed"] == len(changed)


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
