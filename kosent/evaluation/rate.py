"""You say which of two replies is better, without seeing whose they are.

    kosent rate report
    kosent rate report --models base tuned --most 60 --name 민지
    kosent rate report --lang en

Shows a conversation and two replies of a finished evaluation, in an order drawn by lot, and waits for one key: a or b for the
better one, = for alike, s to skip, u to take the last one back, m to read long replies whole, q to leave. In a pipe it reads
lines instead. Each vote is on disk at once, readable by you alone; the same command goes on where it was, and asks nothing twice.
Replies that are the same are not asked. When all are answered the models' names are shown; the votes enter the report's ranking
beside those of `kosent judge`.

Several people: each with a --name of their own, on the same --seed, so that they see the same prompts.
"""

from __future__ import annotations

import argparse
import getpass
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import UsageError
from kosent.settings import load_settings

if TYPE_CHECKING:
    from kosent.evaluation.folder import Report
    from kosent.evaluation.judgement_files import Judgements
    from kosent.evaluation.judging import Question
    from kosent.evaluation.rating_screen import Screen

ENOUGH = 10
"""Votes from which on win rates are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the report of `kosent evaluate`")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="compare these of the evaluation (all)")
    parser.add_argument("--most", type=int, metavar="N", help="pairs of replies in all (every pair on every prompt)")
    parser.add_argument("--straw-men", action="store_true", help="the straw men as well")
    parser.add_argument("--name", help="under which your votes are kept (your user name)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of prompts (0)")
    parser.add_argument("--lang", choices=["ko", "en"], help="language of the interface (ko)")


@dataclass(frozen=True)
class Shown:
    """A question with its replies in the order in which they are shown."""

    question: Question
    a: str
    b: str


def run(args: argparse.Namespace) -> int:
    extras.require("evaluate", what="`kosent rate`")
    from kosent.evaluation.judgement_files import Judgements, judgements_file
    from kosent.evaluation.judging import PEOPLE, chosen_models, is_current, open_report, questions, rewrite
    from kosent.evaluation.rating_screen import Screen

    if args.most is not None and args.most < 1:
        raise UsageError("--most is a number from 1.")
    settings = load_settings({"lang": args.lang})
    report = open_report(args.folder)
    found = questions(report, chosen_models(report, args.models, args.straw_men), seed=args.seed)
    asked = found.asked[: args.most]
    if not asked:
        raise UsageError("There is nothing to compare: no prompt has two different replies.", hint="--models A B, or --straw-men")
    name = args.name or _user()
    screen = Screen(settings.lang)
    with Judgements(judgements_file(args.folder, f"{PEOPLE}-{name}"), private=True) as kept:
        outdated = kept.keep(lambda row: is_current(report, row))
        screen.welcome(identical=found.identical, outdated=outdated)
        finished = False
        try:
            finished = rate(report, asked, kept, name, screen)
        except KeyboardInterrupt:
            screen.left()
        rows = list(kept.rows)
    if any(row["outcome"] != "skip" for row in rows):
        rewrite(args.folder)
    if finished:
        screen.results(report, rows, ENOUGH)
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "me"


def rate(report: Report, asked: Sequence[Question], kept: Judgements, name: str, screen: Screen) -> bool:
    """Asks what is not in `kept` yet, in an order and with places that nobody can foretell. Returns whether all is answered: as
    long as it is not, nobody is told whose replies they were."""
    lot = random.SystemRandom()
    known = {_key(row) for row in kept.rows}
    left = [shown_by_lot(one, lot) for one in asked if (one.turn, *sorted((one.first, one.second))) not in known]
    lot.shuffle(left)
    if not left:
        screen.nothing_left()
    while left:
        one = left[-1]
        turn = one.question.turn
        replies = [report.answers[model][turn].text for model in (one.a, one.b)]
        screen.show(report.turns[turn].messages, replies, len(asked) - len(left) + 1, len(asked))
        while (key := screen.key()) == "m":
            screen.show(report.turns[turn].messages, replies, len(asked) - len(left) + 1, len(asked), whole=True)
        match key:
            case "q":
                screen.left()
                return False
            case "u":
                again = taken_back(kept, asked)
                if again:
                    left.append(again)
                else:
                    screen.nothing_to_take_back()
            case _:
                left.pop()
                kept.append(vote(report, name, one, {"=": "tie", "s": "skip"}.get(key, key)))
    return True


def shown_by_lot(question: Question, lot: random.Random) -> Shown:
    first, second = lot.sample([question.first, question.second], 2)
    return Shown(question, first, second)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    """A prompt and a pair, whichever was shown first."""
    return (row["turn"], *sorted((row["a"], row["b"])))


def taken_back(kept: Judgements, asked: Sequence[Question]) -> Shown | None:
    """The last one answered, to be shown as it was; None where there is none, or it is not among those asked now."""
    if not kept.rows:
        return None
    row = kept.rows[-1]
    for question in asked:
        if (question.turn, *sorted((question.first, question.second))) == _key(row):
            kept.take_back()
            return Shown(question, row["a"], row["b"])
    return None


def vote(report: Report, name: str, one: Shown, outcome: str) -> dict[str, Any]:
    """The line of a file of votes."""
    from kosent.evaluation.judge_prompts import VERSIONS
    from kosent.evaluation.judging import PEOPLE, shown

    turn = one.question.turn
    return {
        "judge": name, "kind": PEOPLE, "prompt": VERSIONS[PEOPLE], "turn": turn, "a": one.a, "b": one.b, "outcome": outcome,
        "text": "", "replies": shown(report, turn, one.a, one.b),
    }  # fmt: skip
