"""The starter base against itself tuned on songys' Chatbot_data, on 300 held-out pairs: docs/base-and-tuned.md and its picture.

    .venv/bin/python benchmarks/base_and_tuned.py --corpus ChatbotData.csv

ChatbotData.csv is that of github.com/songys/Chatbot_data (MIT). What is not held out is trained on, but for a thirtieth to watch
the validation loss with. On two cores the training took 35 minutes beside other work, the evaluation 5; stopped at any point, the
same command goes on. The pictures, docs/evaluation.png for the README too, are taken by a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import Result, report
from kosent.evaluation.comparisons import markdown
from kosent.evaluation.folder import CONSTANT, RANDOM, Report, read_report
from kosent.evaluation.summary import summarise
from kosent.evaluation.table import all_metrics, table
from kosent.files import write_text

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAIRS, EXAMPLES = 300, 12
SHARES = ("--test", "0.033", "--validation", "0.03")
TRAINING = ("--set", "training.validation_steps=250", "--set", "training.checkpoint_steps=250")
WIDTH, SOME_REPLIES, PART = 1180, 1500, 1300
"""Of the pictures, in pixels: their width, how much of the replies they show, and the height of the README's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="ChatbotData.csv")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "base-against-tuned", metavar="DIR")
    args = parser.parse_args()
    data, run, result = args.folder / "data", args.folder / "run", args.folder / "report"
    if not (data / "report.json").is_file():
        kosent("prepare", args.corpus, "--output", data, *SHARES)
    if not (run / "adapter").is_dir():
        kosent("finetune", "--recipe", "starter-cpu", "--data", data, "--output", run, "--resume", *TRAINING)
    began = time.monotonic()
    kosent(
        "evaluate", "--data", data, "--most", PAIRS, "--prompts", "baseline", "--prompts", "multi-turn",
        "--model", "base=starter", "--model", f"tuned={run}", "--report", result,
    )  # fmt: skip
    seconds = time.monotonic() - began
    found = read_report(result)
    picture(result / "report.html", DOCS / "base-and-tuned.png")
    write_text(DOCS / "base-and-tuned.md", written(found))
    values = {name: row["values"] for name, row in found.results["models"].items()}
    pairs = {(row["first"], row["second"], row["metric"]): row for row in found.results["comparisons"]["pairs"]}
    rows = [
        Result("held-out pairs", found.results["replies"], "pairs", str(PAIRS), found.results["replies"] == PAIRS),
        Result("evaluation, or what was left of it", round(seconds), "s", "", True),
    ]
    for metric in ("bleu_char", "chrf", "cosine", "distinct", "repetition", "foreign", "ended", "bits_per_byte"):
        rows += [Result(f"{metric}, {name}", round(values[name][metric], 4), "", "", True) for name in ("base", "tuned")]
    for other in ("base", CONSTANT, RANDOM):
        row = pairs["tuned", other, "cosine"]
        ahead = row["p_holm"] <= 0.05 and row["difference"] > 0
        rows.append(Result(f"cosine, tuned - {other}", round(row["difference"], 3), "", "> 0 after Holm", ahead))
    report("base_and_tuned", rows)


def kosent(*arguments: object) -> None:
    command = [sys.executable, "-m", "kosent", *map(str, arguments)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def picture(page: Path, target: Path) -> None:
    from playwright.sync_api import sync_playwright

    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("The picture needs a Chromium: sudo apt install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = chromium.new_page(viewport={"width": WIDTH, "height": 900})
        view.goto(page.resolve().as_uri())
        whole = view.locator("#replies").evaluate("section => section.getBoundingClientRect().top + scrollY")
        view.screenshot(path=target, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": whole + SOME_REPLIES})
        table = view.locator("#table").evaluate("section => section.getBoundingClientRect().top + scrollY")
        part = {"x": 0, "y": table + 8, "width": WIDTH, "height": PART}
        view.screenshot(path=target.with_name("evaluation.png"), full_page=True, clip=part)
        chromium.close()


def written(found: Report) -> str:
    places = range(0, found.results["replies"], found.results["replies"] // EXAMPLES)
    examples = []
    for place in list(places)[:EXAMPLES]:
        turn = found.turns[place]
        examples += [f"**{turn.user}**", "", f"- written: {turn.reference}"]
        for name in ("base", "tuned"):
            text = " ".join(found.answers[name][place].text.split())
            examples.append(f"- {name}: {text if len(text) <= 200 else text[:200] + ' …'}")
        examples.append("")
    return "\n".join(
        [
            "# Base and tuned, on 300 held-out pairs",
            "",
            "    .venv/bin/python benchmarks/base_and_tuned.py --corpus ChatbotData.csv",
            "",
            "Gemma 3 270M before and after two passes over the other pairs of [songys' Chatbot_data](https://github.com/songys/"
            "Chatbot_data) (recipe `starter-cpu`). The command writes this page and the picture; `report.html`, of which it is "
            "the beginning, stands in `.cache/base-against-tuned/report`.",
            "",
            "![report](base-and-tuned.png)",
            "",
            "## In words",
            "",
            *(f"- {finding.text}" for finding in summarise(found)),
            "",
            "## Headline",
            "",
            table(found.results),
            "## All metrics",
            "",
            all_metrics(found.results),
            markdown(found.results["comparisons"]),
            f"## Replies, every {found.results['replies'] // EXAMPLES}th",
            "",
            *examples,
        ]
    )


if __name__ == "__main__":
    main()
