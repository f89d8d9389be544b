"""The crisis detector, and the filter of the model's replies, on lines that they were not tuned on.

    .venv/bin/python benchmarks/safety.py             recall, precision and time, with intervals
    .venv/bin/python benchmarks/safety.py --cross     the same on the tuning part and on each training file, by the others
    .venv/bin/python benchmarks/safety.py --fit       makes the weights in kosent/data again (needs kosent[finetune])

The test lines (tests/data/safety_test.tsv, reply_test.tsv) were written before what they measure, and the training lines
(benchmarks/data) by others, who did not see them. A crisis that is called a concern is missed; a concern called a crisis is
a false alarm. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from common import Result, report
from kosent import safety, safety_classifier
from kosent.evaluation.ranking import wilson
from kosent.reply_guard import ReplyGuard
from kosent.safety import LEVELS, Level
from kosent.safety_classifier import MESSAGES, REPLIES, Classifier
from safety_fit import DATA, MESSAGE_LINES, REPLY_LINES, TESTS, Line, fit_messages, fit_replies, is_held_out, lines, starter

TUNE, TEST, REPLY_TEST = (TESTS / f"{name}.tsv" for name in ("safety_tune", "safety_test", "reply_test"))
RECALL_GOAL, PRECISION_GOAL, TIME_GOAL = 0.97, 0.90, 5.0


def measured(name: str, test: Sequence[Line], goals: bool, show: bool = False) -> list[Result]:
    found = [(level, kind, text, safety.assess(text).level) for level, kind, text in test]
    crises = [row for row in found if row[0] == "crisis"]
    alarms = [row for row in found if row[3] == "crisis"]
    right = sum(row[3] == "crisis" for row in crises)
    if show:
        for level, kind, text, called in found:
            if (level == "crisis") != (called == "crisis"):
                print(f"{level}/{kind} called {called} ({safety.assess(text).score:.2f}): {text}")
    recall, precision = right / len(crises), right / max(1, len(alarms))
    low, high = wilson(right / len(crises), len(crises))
    least, most = wilson(right / max(1, len(alarms)), max(1, len(alarms)))
    heavy = [row for row in found if row[0] != "none"]
    rows = [
        Result(f"{name}: lines", len(test), "lines", "", True),
        Result(f"{name}: recall of crisis ({low:.3f} to {high:.3f})", round(recall, 4), "share",
               f">= {RECALL_GOAL}" if goals else "", not goals or recall >= RECALL_GOAL),
        Result(f"{name}: precision of crisis ({least:.3f} to {most:.3f})", round(precision, 4), "share",
               f">= {PRECISION_GOAL}" if goals else "", not goals or precision >= PRECISION_GOAL),
        Result(f"{name}: concern or crisis noticed", round(sum(row[3] != "none" for row in heavy) / len(heavy), 4), "share", "",
               True),
    ]  # fmt: skip
    for kind in sorted({row[1] for row in crises}):
        own = [row for row in crises if row[1] == kind]
        rows.append(
            Result(f"{name}: crisis/{kind}", round(sum(row[3] == "crisis" for row in own) / len(own), 4), "share", "", True)
        )
    for kind in sorted({row[1] for row in found if row[0] != "crisis"}):
        own = [row for row in found if row[1] == kind and row[0] != "crisis"]
        wrong = sum(row[3] == "crisis" for row in own)
        rows.append(Result(f"{name}: false alarms, {kind}", wrong, f"of {len(own)}", "", True))
    return rows


def print_thresholds(scores: Sequence[tuple[float, bool]]) -> None:
    """Recall and precision over all folds by the least score that counts."""
    for percent in range(10, 75, 5):
        alarms = [crisis for score, crisis in scores if score >= percent / 100]
        recall = sum(alarms) / sum(crisis for _, crisis in scores)
        print(f"from {percent / 100:.2f}: recall {recall:.3f}, precision {sum(alarms) / len(alarms):.3f}")


def false_alarms(name: str, texts: Sequence[str], alarming: Callable[[str], bool]) -> Result:
    """Share of ordinary `texts` at which there is an alarm; prints them, since some may deserve it."""
    unseen = [text for text in texts if is_held_out(text)]
    called = [text for text in unseen if alarming(text)]
    print(f"alarms, {name}:", *called, sep="\n  ")
    return Result(f"{name}: {len(called)} of {len(unseen)} alarms", round(len(called) / len(unseen), 4), "share", "", True)


def is_crisis(text: str) -> bool:
    return safety.assess(text).level == "crisis"


def is_replaced(text: str, level: Level) -> bool:
    guard = ReplyGuard(level=level)
    guard.feed(text)
    guard.rest()
    return guard.replaced > 0


def column(corpus: Path, name: str) -> list[str]:
    with corpus.open(encoding="utf-8", newline="") as opened:
        return sorted({" ".join(row[name].split()) for row in csv.DictReader(opened)} - {""})


def measured_replies(test: Sequence[Line], show: bool = False) -> list[Result]:
    """Sentences that are replaced, by what the person wrote before; and of a harmful one, what has been seen of it by then."""
    rows = []
    for level in LEVELS:
        found = [(kind, text, harm == "harm", is_replaced(text, level)) for harm, kind, text in test]
        harm = [row for row in found if row[2]]
        right, alarms = sum(row[3] for row in harm), sum(row[3] for row in found)
        for name, count in (("recall", len(harm)), ("precision", max(1, alarms))):
            low, high = wilson(right / count, count)
            rows.append(Result(f"replies, {level}: {name} of harm ({low:.3f} to {high:.3f}, n={count})", round(right / count, 4),
                               "share", "", True))  # fmt: skip
        for kind in sorted({row[0] for row in found}):
            own = [row for row in found if row[0] == kind]
            rows.append(Result(f"replies, {level}: {kind}, replaced", sum(row[3] for row in own), f"of {len(own)}", "", True))
        if show:
            wrong = (
                f"{level}: {kind} {'replaced' if done else 'let through'}: {text}"
                for kind, text, bad, done in found
                if bad != done
            )
            print(*wrong, sep="\n")
    rows += [*seen_of_harm(test), waiting(test)]
    return rows


def seen_of_harm(test: Sequence[Line]) -> list[Result]:
    rows = []
    for level in LEVELS:
        shares = []
        for _, _, text in (line for line in test if line[0] == "harm"):
            guard = ReplyGuard(level=level)
            seen = sum(len(guard.feed(letter)) for letter in text)
            guard.rest()
            shares += [seen / len(text)] if guard.replaced else []
        rows.append(
            Result(f"replies, {level}: what is seen of a replaced sentence, median", round(median(shares), 3), "share", "", True)
        )
    return rows


def waiting(test: Sequence[Line]) -> Result:
    """Harmless sentences that are not shown letter by letter in ordinary talk."""
    safe = [text for level, _, text in test if level == "safe"]
    held = sum(any(not guard.feed(letter) for letter in text) for text in safe for guard in [ReplyGuard()])
    return Result("replies, none: harmless sentences that wait for their end", held, f"of {len(safe)}", "", True)


def timed(test: Sequence[Line]) -> Result:
    safety.assess("안녕")
    seconds = []
    for _, _, text in test:
        began = time.perf_counter()
        safety.assess(text)
        seconds.append(time.perf_counter() - began)
    worst = 1000 * max(seconds)
    return Result(f"time a message, longest of all (median {1000 * median(seconds):.2f} ms)", round(worst, 2), "ms",
                  f"< {TIME_GOAL:g}", worst < TIME_GOAL)  # fmt: skip


def timed_longest(test: Sequence[Line]) -> Result:
    """As much text as is looked at of any message."""
    text = " ".join(text for _, _, text in test)[: 2 * safety.ENDS]
    began = time.perf_counter()
    safety.assess(text)
    return Result(f"time a message of {len(text):,} letters", round(1000 * (time.perf_counter() - began), 1), "ms", "", True)


def crossed() -> list[Result]:
    """Each file by what the others teach."""
    rows: list[Result] = []
    scores: list[tuple[float, bool]] = []
    fold = DATA / ".fold.bin"
    for held_out in [*MESSAGE_LINES, TUNE]:
        fit_messages([line for other in MESSAGE_LINES if other != held_out for line in lines(other)], fold, MESSAGES.classes)
        safety_classifier.MESSAGES = Classifier(fold, MESSAGES.classes)
        rows += measured(held_out.stem, lines(held_out), False, show=held_out == TUNE)
        scores += [(safety.assess(text).score, level == "crisis") for level, _, text in lines(held_out)]
    print_thresholds(scores)
    scores = []
    for held_out in REPLY_LINES:
        fit_replies([line for other in REPLY_LINES if other != held_out for line in lines(other)], fold, REPLIES.classes)
        safety_classifier.REPLIES = Classifier(fold, REPLIES.classes)
        rows += [replace(row, name=f"{held_out.stem} {row.name}") for row in measured_replies(lines(held_out), show=True)]
        scores += [(safety_classifier.probability_of_harm(text), level == "harm") for level, _, text in lines(held_out)]
    print_thresholds(scores)
    fold.unlink()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="make the weights again")
    parser.add_argument("--cross", action="store_true", help="on what it was trained and tuned on, for whoever changes it")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="songys' ChatbotData.csv, for false alarms in everyday talk")
    args = parser.parse_args()
    if args.cross:
        report("safety_cross", crossed())
        return
    if args.fit:
        fit_messages([line for file in MESSAGE_LINES for line in lines(file)], Path(str(MESSAGES.file)), MESSAGES.classes)
        fit_replies([line for file in REPLY_LINES for line in lines(file)], Path(str(REPLIES.file)), REPLIES.classes)
    rows = [*measured("test", lines(TEST), True), timed(lines(TEST)), timed_longest(lines(TEST))]
    rows.append(false_alarms("starter corpus", starter("user"), is_crisis))
    if args.corpus:
        rows.append(false_alarms("everyday", column(args.corpus, "Q"), is_crisis))
    rows += measured_replies(lines(REPLY_TEST))
    for level in LEVELS:
        replaced = partial(is_replaced, level=level)
        rows.append(false_alarms(f"starter corpus, replies, {level}", starter("assistant"), replaced))
        if args.corpus:
            rows.append(false_alarms(f"everyday replies, {level}", column(args.corpus, "A"), replaced))
    report("safety", rows)


if __name__ == "__main__":
    main()
