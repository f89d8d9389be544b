"""A chat model judges the replies of a finished evaluation, pair by pair or one by one.

    kosent judge report --by ollama:qwen3:8b
    kosent judge report --by ollama:qwen3:8b --by openai:NAME@http://127.0.0.1:8000/v1 --most 100
    kosent judge report --by judge.gguf --models base tuned --straw-men
    kosent judge report --by ollama:qwen3:8b --rubric

Every two models are compared on every prompt, in both orders; where the judge changes its mind with the order, it is a tie.
--rubric has each reply scored from 1 to 5 for four criteria instead. The judge answers greedily. Every judgement is in
FOLDER/judgements at once, with what the judge wrote: the same command goes on after an interruption, asks again what failed, and
with other --models, --most or --seed adds to it. At the end come win rates with intervals, at equal length too, flip and error
rate, a ranking of three or more models, and how far judges and people agree; they stand in results.json and on the page, too.

docs/evaluation.md says what the numbers mean. Judges have faults that people have not: compare with `kosent rate`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import BackendError, KosentError, ModelError, OutOfMemoryError, ServerDownError, UsageError
from kosent.models import ModelReference, chat_model_for, resolve_model
from kosent.progress import progress, say
from kosent.settings import load_settings
from kosent.text import printable

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage

    from kosent.evaluation.folder import Report

LONGEST, CONTEXT, AT_ONCE = 1024, 4096, 4
"""Tokens of an answer; least context window in tokens; requests at once to a server."""
Ask = Callable[[Sequence["BaseMessage"]], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the report of `kosent evaluate`")
    parser.add_argument(
        "--by", required=True, action="append", metavar="MODEL",
        help="the judge: ollama:NAME, openai:NAME@URL, FILE.gguf or a run directory; several times for several",
    )  # fmt: skip
    parser.add_argument("--rubric", action="store_true", help="score each reply by itself instead of comparing pairs")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="judge these of the evaluation (all)")
    parser.add_argument("--most", type=int, metavar="N", help="prompts, drawn at random (all)")
    parser.add_argument("--straw-men", action="store_true", help="judge the straw men as well")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of prompts (0)")
    parser.add_argument("--parallel", type=int, metavar="N", help=f"requests at once to a server ({AT_ONCE})")


@dataclass(frozen=True)
class Job:
    """One request: the models whose replies are shown, in order; one of them for a rubric."""

    turn: int
    models: tuple[str, ...]


def run(args: argparse.Namespace) -> int:
    extras.require("evaluate", what="`kosent judge`")
    from kosent.evaluation.judge_tables import tables
    from kosent.evaluation.judging import chosen_models, open_report, rewrite

    if min(args.most or 1, args.parallel or 1) < 1 or args.most == 0:
        raise UsageError("--most and --parallel are numbers from 1.")
    kind = "rubric" if args.rubric else "pairwise"
    report = open_report(args.folder)
    models = chosen_models(report, args.models, args.straw_men, least=1 if args.rubric else 2)
    jobs = (
        rubric_jobs(report, models, args.most, args.seed) if args.rubric else pairwise_jobs(report, models, args.most, args.seed)
    )
    if not jobs:
        raise UsageError("There is nothing to judge: no prompt has two different replies.", hint="--models A B, or --straw-men")
    judges = [resolve_model(name) for name in dict.fromkeys(args.by)]
    for reference in judges:
        judged(args.folder, report, reference, kind, jobs, args.parallel)
    report = rewrite(args.folder)
    names = [judge_name(reference) for reference in judges]
    for entry in report.results["judges"]:
        if entry["kind"] == "all" or (entry["kind"] == kind and entry["judge"] in names):
            print(printable("\n".join(tables(entry))), end="\n\n")
    print(f"Transcripts: {args.folder / 'judgements'}. Page: {args.folder / 'report.html'}")
    return 0


def judge_name(reference: ModelReference) -> str:
    """How a judge is called in files and tables: a GGUF by its folder and name, without the rest of the path."""
    path = Path(reference.name)
    return f"{path.resolve().parent.name}/{path.name}" if reference.kind == "gguf" else str(reference)


def pairwise_jobs(report: Report, models: Sequence[str], most: int | None, seed: int) -> list[Job]:
    """Both orders of each pair, one after the other."""
    from kosent.evaluation.judging import questions

    found = questions(report, models, most, seed)
    for number, why in ((found.identical, "the two replies are the same"), (found.missing, "a model has no reply")):
        if number:
            say(f"{number} pairs are left out: {why}.")
    return [Job(one.turn, order) for one in found.asked for order in ((one.first, one.second), (one.second, one.first))]


def rubric_jobs(report: Report, models: Sequence[str], most: int | None, seed: int) -> list[Job]:
    from kosent.evaluation.judging import drawn_turns, has_reply

    turns = drawn_turns(report, seed)[:most]
    return [Job(turn, (model,)) for turn in turns for model in models if has_reply(report, model, turn)]


def judged(
    folder: Path, report: Report, reference: ModelReference, kind: str, jobs: Sequence[Job], parallel: int | None = None
) -> None:
    """Asks what is not in the judge's file yet."""
    from kosent.evaluation.judgement_files import Judgements, judgements_file
    from kosent.evaluation.judging import is_current
    from kosent.evaluation.together import together

    name = judge_name(reference)
    with Judgements(judgements_file(folder, name)) as kept:
        outdated = kept.keep(lambda row: is_current(report, row))
        if outdated:
            say(f"{name}: {outdated} judgements are of other replies, or by another prompt; they are in judgements/outdated now.")
        kept.drop_failed()
        known = {(row["turn"], _shown(row)) for row in kept.rows if row["kind"] == kind}
        left = [job for job in jobs if (job.turn, job.models) not in known]
        if not left:
            say(f"{name} has judged all of them before.")
            return
        ask = asker(reference, kind)
        at_once = 1 if reference.kind == "gguf" else parallel or AT_ONCE
        done = len(jobs) - len(left)
        with progress(f"judging by {name}", len(jobs), start=done) as advance:
            for job, (text, failed) in together(left, lambda job: answer(ask, prompt_of(report, job)), at_once):
                kept.append(judgement(report, name, kind, job, text, failed))
                done += 1
                advance(done, "")
        failed_ones = [row["failed"] for row in kept.rows if "failed" in row]
    if failed_ones:
        say(f"{name}: {len(failed_ones)} requests failed, and are asked again by the same command. The last: {failed_ones[-1]}")


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["model"],) if row["kind"] == "rubric" else (row["a"], row["b"])


def prompt_of(report: Report, job: Job) -> list[BaseMessage]:
    from kosent.evaluation.judge_prompts import pairwise_prompt, rubric_prompt

    conversation, replies = report.turns[job.turn].messages, [report.answers[model][job.turn].text for model in job.models]
    return rubric_prompt(conversation, replies[0]) if len(replies) == 1 else pairwise_prompt(conversation, replies[0], replies[1])


def judgement(report: Report, name: str, kind: str, job: Job, text: str, failed: str) -> dict[str, Any]:
    """The line of a file of judgements."""
    from kosent.evaluation.judge_prompts import VERSIONS, read_scores, read_verdict
    from kosent.evaluation.judging import shown

    row: dict[str, Any] = {"judge": name, "kind": kind, "prompt": VERSIONS[kind], "turn": job.turn}
    if kind == "rubric":
        row |= {"model": job.models[0], "scores": None if failed else read_scores(text)}
    else:
        row |= {"a": job.models[0], "b": job.models[1], "outcome": (None if failed else read_verdict(text)) or "error"}
    row |= {"text": text, "replies": shown(report, job.turn, *job.models)}
    return row | ({"failed": failed} if failed else {})


def asker(reference: ModelReference, kind: str) -> Ask:
    """A function from a prompt to the judge's answer, greedy, and held to JSON where the backend can do that."""
    from kosent.evaluation.judge_prompts import SCHEMAS

    settings = load_settings()
    settings = replace(
        settings, model="", fallback="", temperature=0.0, max_tokens=LONGEST,
        context=settings.context or max(reference.context, CONTEXT),
    )  # fmt: skip
    model = chat_model_for(reference, settings)
    bound = held_to(model, reference.kind, SCHEMAS[kind])
    free: list[bool] = []  # the server refused the schema, and answered without

    def ask(messages: Sequence[BaseMessage]) -> str:
        if not free:
            try:
                return str(bound.invoke(list(messages)).text)
            except BackendError as error:
                if type(error) is not BackendError or bound is model:
                    raise
        text = str(model.invoke(list(messages)).text)
        free.append(True)
        return text

    return ask


def held_to(model: BaseChatModel, kind: str, schema: dict[str, Any]) -> Any:
    """The model bound to a JSON schema, as its backend takes one."""
    if kind == "gguf":
        return model.bind(json_schema=json.dumps(schema))
    if kind == "ollama":
        return model.bind(format=schema, reasoning=False)  # a model that thinks aloud would spend its tokens on that
    if kind == "openai":
        described = {"type": "json_schema", "json_schema": {"name": "judgement", "schema": schema, "strict": True}}
        return model.bind(extra_body={"response_format": described})
    return model


def answer(ask: Ask, prompt: Sequence[BaseMessage]) -> tuple[str, str]:
    """What the judge wrote, and why that failed, or nothing. Raises `ModelError` where no request can succeed: no server, no
    memory, no model."""
    try:
        return ask(prompt), ""
    except (ServerDownError, OutOfMemoryError):
        raise
    except ModelError as error:
        if not isinstance(error, BackendError):
            raise
        return str(getattr(error, "text", "")), str(error)
    except KosentError as error:
        return "", str(error)
