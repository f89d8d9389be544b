"""Rules about the whole corpus: splits that stay, balanced emotions, down-sampling, leaks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from kosent.finetune.cleaning import Cleaner
from kosent.finetune.prepare_report import emotion_difference
from kosent.finetune.records import SPLITS, Record
from kosent.finetune.rules import CleaningSettings, resolve_settings, switched_on
from kosent.finetune.selection import Selection
from kosent.finetune.tally import contradicting

EMOTIONS = ("기쁨", "당황", "분노", "불안", "상처", "슬픔")


def record(row: int, user: str, reply: str, emotion: str = "슬픔") -> Record:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
    return Record("c.csv", row, messages, {"감정_대분류": emotion})


def many(count: int, start: int = 0) -> list[Record]:
    return [record(i, f"사람이 {i}번째로 하는 말이에요", f"그 {i}번째 말씀을 들었어요.") for i in range(start, start + count)]


def decided(
    records: Sequence[Record],
    shares: tuple[float, float] = (0.1, 0.2),
    settings: CleaningSettings | None = None,
    without: str = "frequent",
) -> Selection:
    settings, on = settings or CleaningSettings(), switched_on([without])
    cleaner = Cleaner(settings, on)
    selection = Selection(settings, on, *shares)
    for one in records:
        selection.add(cleaner(one))
    selection.decide()
    return selection


def places(records: Sequence[Record]) -> dict[int, str]:
    """Row number -> split, or the rule that left the row out."""
    selection = decided(records)
    return {one.row: selection.dropped.get(i, (selection.split(i), ""))[0] for i, one in enumerate(records)}


def test_splits_do_not_depend_on_order_and_stay_under_growth() -> None:
    before = places(many(300))
    shuffled = many(300)
    random.Random(1).shuffle(shuffled)
    assert places(shuffled) == before
    after = places(many(900))
    assert {row: after[row] for row in before} == before
    assert 0.1 < list(before.values()).count("test") / 300 < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_emotions_have_the_same_shares_in_all_splits_of_10_000_dialogues(seed: int) -> None:
    chance = random.Random(seed)
    weights = [chance.uniform(0.5, 2) for _ in EMOTIONS]
    records = [
        record(i, f"사람 {seed}이 {i}번째로 하는 말", f"그 {i}번째 말씀", chance.choices(EMOTIONS, weights)[0])
        for i in range(10_000)
    ]
    unbalanced = decided(records, (0.06, 0.12), without="frequent,balance")
    free = emotion_difference(unbalanced.split_counts())
    selection = decided(records, (0.06, 0.12))
    difference = emotion_difference(selection.split_counts())
    assert free and difference and difference["points"] <= 1.0 < free["points"]
    assert all(unbalanced.split(i) == selection.split(i) for i in range(len(records)))
    left_out = Counter(rule for rule, _ in selection.dropped.values())
    assert set(left_out) == {"balance"} and left_out["balance"] < 0.02 * len(records)


def test_a_small_corpus_gives_nothing_up_for_balance() -> None:
    chance = random.Random(3)
    records = [record(i, f"사람이 {i}번째로 하는 말", f"그 {i}번째 말씀", chance.choice(EMOTIONS)) for i in range(200)]
    assert decided(records).dropped == {}


def test_growth_never_moves_a_row_into_another_split() -> None:
    chance = random.Random(5)
    records = [record(i, f"사람이 {i}번째로 하는 말", f"그 {i}번째 말씀", chance.choice(EMOTIONS)) for i in range(4000)]
    few, all_of_them = places(records[:2500]), places(records)
    moved = {(few[row], all_of_them[row]) for row in few if few[row] != all_of_them[row]}
    assert all("balance" in pair for pair in moved)


def test_a_training_dialogue_that_shares_an_utterance_with_the_test_is_left_out() -> None:
    shared = "같은 말을 두 번 하는 사람이에요"
    selection = decided([record(i, shared, f"{i}번째 다른 대답이에요.") for i in range(40)])
    counts = selection.split_counts()
    assert counts["train"]["dialogues"] == 0 and counts["test"]["dialogues"] > 0
    assert {rule for rule, _ in selection.dropped.values()} == {"leak"}
    assert selection.leakage()["train_test"] == 0


def test_a_short_utterance_is_no_leak() -> None:
    assert decided([record(i, "힘들어요", f"{i}번째 다른 대답이에요.") for i in range(40)]).dropped == {}


def test_without_the_rule_the_leak_is_there_and_is_reported() -> None:
    shared = "같은 말을 두 번 하는 사람이에요"
    selection = decided([record(i, shared, f"{i}번째 다른 대답이에요.") for i in range(40)], without="leak,frequent")
    assert selection.leakage() == {"train_validation": 1, "train_test": 1, "validation_test": 1, "left_out": 0}


def test_frequent_replies_and_openings_are_sampled_down_to_the_limit() -> None:
    persona = [record(i, f"질문 {i}번은 이것입니다", "저는 그런 감정을 모릅니다.") for i in range(50)]
    openings = [record(i, f"물음 {i}번은 저것입니다", f"당신의 마음을 이해해요. {i}일이면 나아요.") for i in range(50, 110)]
    settings = resolve_settings(["frequent.min_count=20"])
    selection = decided([*many(200, 1000), *persona, *openings], settings=settings, without="leak")
    dropped = Counter(why for rule, why in selection.dropped.values() if rule == "frequent")
    assert sorted(dropped.values()) == [30, 40]
    again = decided([*openings, *persona, *many(200, 1000)], settings=settings, without="leak")
    kept = {i for i in range(50) if 200 + i not in selection.dropped}
    assert kept == {i for i in range(50) if 60 + i not in again.dropped}


def test_a_last_sentence_everywhere_is_sampled_down_too() -> None:
    records = [
        record(i, f"물음 {i}번은 저것입니다", f"{i}번 대답이에요. 더 궁금한 점이 있으면 언제든 말씀해 주세요!") for i in range(70)
    ]
    selection = decided([*records, *many(100, 1000)], without="leak")
    assert Counter(rule for rule, _ in selection.dropped.values()) == {"frequent": 50}


def test_turns_in_a_strange_order_ask_no_question() -> None:
    both = [record(i, f"물음 {i}번은 무엇일까요", f"{i}번 대답") for i in range(20)]
    alone = [Record("c.csv", i, [{"role": "user", "content": f"물음 {i}번은 무엇일까요"}]) for i in range(20)]
    selection = decided([*both, *alone], without="roles,leak")
    assert {selection.repeated_question(row) for row in range(40)} == {None}


@pytest.mark.parametrize(
    ("replies", "opposed"),
    [
        (["연락해도 괜찮아요.", "연락하면 안 괜찮아요."], True),
        (["오늘은 쉬어도 돼요.", "산책을 가 볼까요?"], False),
        (["오늘은 쉬어도 돼요.", "오늘은 쉬어도 좋아요."], False),
    ],
)
def test_opposed_answers_are_told_from_different_ones(replies: list[str], opposed: bool) -> None:
    assert contradicting(replies) is opposed


def test_every_split_has_a_name() -> None:
    assert SPLITS == ("train", "validation", "test")
