"""The findings of an evaluation in words: who is ahead of whom, and the failures of the first study."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import pytest

from collapse import MADE_FOR, PERSONA, planted
from kosent.embedders import UniversalSentenceEncoder
from kosent.evaluation.definitions import METRICS
from kosent.evaluation.folder import CONSTANT, RANDOM, Answer, Report, Turn
from kosent.evaluation.metrics import Scorer
from kosent.evaluation.page import page
from kosent.evaluation.summary import failures, lead, summarise, verdict
from kosent.pages import visible
from kosent.starter import corpus_path

SAID = {
    "repetition": "repetition repeats itself in 60 of 60 replies (100.0 %)",
    "foreign": "foreign script falls into a foreign script in 20 of 60 replies (33.3 %)",
    "echo": "echo echoes the user in",
    "same_start": "persona begins 60 of 60 replies (100.0 %) with the same words, as with a persona sentence",
    "most_frequent": "safe reply gives one and the same reply in 30 of 60 replies (50.0 %)",
    "ended": "never ending does not end 60 of 60 replies (100.0 %) by itself",
    "empty": "nothing says nothing at all in 15 of 60 replies (25.0 %)",
}


@pytest.fixture(scope="module")
def collapsed() -> Report:
    """The planted failures as models, measured on sixty messages of the starter corpus, and one that harms and fails."""
    with corpus_path().open(encoding="cp949", newline="") as file:
        rows = list(csv.DictReader(file))[:60]
    users, answers = [row["사람문장1"] for row in rows], [row["시스템문장1"] for row in rows]
    pairs = enumerate(zip(users, answers, strict=True))
    turns = [Turn(str(number), [{"role": "user", "content": user}], answer) for number, (user, answer) in pairs]
    models = {name: [Answer(reply, name != "never ending") for reply in some] for name, some in planted(users, answers).items()}
    models["dangerous"] = [Answer("그냥 죽어 버리세요.", True), Answer("", False, "the server is gone"), *models["sound"][2:]]
    scorer = Scorer(users, answers, UniversalSentenceEncoder())
    measured = {name: scorer.measure([one.text for one in some], [one.ended for one in some]) for name, some in models.items()}
    values = {name: {"values": one.values, "intervals": {}, "failures": 0} for name, one in measured.items()}
    return Report({"models": values}, turns, models, {name: one.each for name, one in measured.items()})


def test_each_failure_is_ranked_worst_by_its_metric_and_named_in_words(collapsed: Report) -> None:
    said = summarise(collapsed)
    for metric, failure in MADE_FOR.items():
        sign = 1 if METRICS[metric].better == "higher" else -1
        values = {name: row["values"][metric] for name, row in collapsed.results["models"].items()}
        assert min(values, key=lambda name: sign * values[name]) == failure, metric
        (found,) = [finding for finding in said if (finding.model, finding.metric) == (failure, metric)]
        assert found.text.startswith(SAID[metric])
        assert found.tone == "bad"
        assert bool(found.example) == (metric != "empty")
    (persona,) = [finding for finding in said if (finding.model, finding.metric) == ("persona", "same_start")]
    assert persona.example.startswith(PERSONA)


def test_sound_replies_have_no_failure_and_single_dangers_are_named(collapsed: Report) -> None:
    assert failures(collapsed, "sound") == []
    found = {finding.metric: finding for finding in failures(collapsed, "dangerous")}
    assert found["harmful"].tone == "bad" and found["harmful"].example == "그냥 죽어 버리세요."
    assert "1 of 60 replies (1.7 %)" in found["harmful"].text
    assert found[""].text == "dangerous failed and has no reply in 1 of 60 replies (1.7 %)."
    assert "empty" not in found and "ended" not in found


def test_the_findings_stand_on_the_page(collapsed: Report) -> None:
    html = page(collapsed)
    assert all(visible(text) in html for finding in summarise(collapsed) for text in (finding.text, finding.example))


def judged(
    *pairs: tuple[str, str, str, float, float], models: tuple[str, ...] = ("base", "tuned"), note: str | None = None
) -> Report:
    """A report of comparisons alone: (first, second, metric, difference, p after Holm)."""
    rows = [
        {"first": first, "second": second, "metric": metric, "difference": difference, "p_holm": p}
        for first, second, metric, difference, p in pairs
    ]
    answers = {name: [Answer("괜찮아요. 다 잘될 거예요.", True)] for name in (*models, CONSTANT, RANDOM)}
    results: dict[str, Any] = {
        "models": {name: {"values": {}, "intervals": {}, "failures": 0} for name in answers},
        "comparisons": {"alpha": 0.05, "note": note, "pairs": rows},
    }
    turn = Turn("0", [{"role": "user", "content": "안녕"}], "네")
    return Report(results, [turn], answers, {name: {} for name in answers})


def test_who_is_ahead_is_what_stands_after_the_correction_in_the_direction_of_the_metric() -> None:
    report = judged(
        ("tuned", "base", "cosine", 0.1, 0.001), ("tuned", "base", "repetition", -0.2, 0.01),
        ("tuned", "base", "echo", 0.2, 0.01), ("tuned", "base", "chrf", 3.0, 0.2), ("tuned", "base", "characters", 30.0, 0.001),
    )  # fmt: skip
    found, back = lead(report, "tuned", "base"), lead(report, "base", "tuned")
    assert (found.ahead, found.behind, found.open) == (["cosine", "repetition"], ["echo"], ["chrf"])
    assert (back.ahead, back.behind, back.open) == (["echo"], ["cosine", "repetition"], ["chrf"])
    (said,) = summarise(report)
    assert said.text == "tuned is ahead of base beyond chance on cosine and repetition, and behind it on echo of the user."
    assert said.tone == "warn"


def test_no_better_than_a_straw_man_is_said_first_with_what_it_says() -> None:
    report = judged(
        ("tuned", "base", "cosine", 0.1, 0.001),
        ("tuned", CONSTANT, "cosine", -0.1, 0.001), ("tuned", CONSTANT, "chrf", 1.0, 0.5),
        ("base", CONSTANT, "cosine", -0.2, 0.001), ("base", CONSTANT, "chrf", 1.0, 0.04),
        ("tuned", RANDOM, "cosine", 0.3, 0.001),
    )  # fmt: skip
    said = summarise(report)
    assert [finding.text for finding in said] == [
        "base is ahead of one constant reply on chrF, and behind it on cosine.",
        "tuned is no better than one constant reply: of 2 metrics with a reference it is ahead on none, and behind it on cosine.",
        "tuned is ahead of a random training reply on every metric with a reference, 1 in all.",
        "tuned is ahead of base beyond chance on cosine.",
    ]
    assert [finding.tone for finding in said] == ["warn", "bad", "good", "good"]
    assert said[1].example == "괜찮아요. 다 잘될 거예요."


@pytest.mark.parametrize(
    ("pairs", "models", "sentence"),
    [
        ([("b", "a", "cosine", 0.1, 0.01), ("b", "a", "chrf", 0.1, 0.3)], ("a", "b"),
         "b is ahead of a beyond chance on 1 of 2 metrics with a reference"),
        ([("b", "a", "cosine", 0.1, 0.01), ("b", CONSTANT, "cosine", 0.1, 0.5)], ("a", "b"),
         "b is ahead of a beyond chance on 1 of 1 metrics with a reference, but b is not shown to be better than one constant "
         "reply"),
        ([("b", "a", "cosine", 0.1, 0.5), ("a", CONSTANT, "cosine", 0.1, 0.5), ("b", CONSTANT, "cosine", 0.1, 0.5)], ("a", "b"),
         "No model leads the others beyond chance, and none is shown to be better than one constant reply"),
        ([("a", CONSTANT, "cosine", 0.1, 0.5)], ("a",),
         "a was measured, but a is not shown to be better than one constant reply"),
        ([("a", CONSTANT, "cosine", 0.1, 0.01)], ("a",), "a is ahead of one constant reply beyond chance"),
        ([("c", "a", "cosine", 0.1, 0.01), ("c", "b", "cosine", 0.1, 0.01), ("b", "a", "cosine", 0.1, 0.9)], ("a", "b", "c"),
         "c is ahead of a and b beyond chance"),
        ([("b", "a", "cosine", 0.1, 0.01), ("b", "a", "chrf", 0.1, 0.01), ("b", "a", "f1", -0.1, 0.01)], ("a", "b"),
         "b is ahead of a beyond chance on 2 of 3 metrics with a reference and behind on 1"),
        ([("b", "a", "cosine", 0.1, 0.01), ("b", "a", "f1", -0.1, 0.01)], ("a", "b"), "No model leads the others beyond chance"),
        ([], ("a",), "a was measured"),
    ],
)  # fmt: skip
def test_the_verdict(pairs: list[tuple[str, str, str, float, float]], models: tuple[str, ...], sentence: str) -> None:
    assert verdict(judged(*pairs, models=models)) == sentence


def test_a_sample_that_is_too_small_is_said() -> None:
    assert summarise(judged(models=("a",), note="Take more dialogues."))[-1].text == "Take more dialogues."


def test_failures_are_in_the_verdict(collapsed: Report) -> None:
    assert verdict(collapsed).endswith("nothing and dangerous fail in ways that a reader sees")


def test_without_references_the_replies_alone_decide() -> None:
    report = judged(("b", "a", "repetition", -0.1, 0.01), ("b", "a", "characters", 9.0, 0.01), models=("a", "b"))
    assert verdict(report) == "No model leads the others beyond chance"
    assert verdict(replace(report, results=report.results | {"references": False})) == (
        "b is ahead of a beyond chance on 1 of 1 metrics"
    )
