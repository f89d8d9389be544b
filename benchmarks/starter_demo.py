"""What a finished demo took and what its model is worth, against the goals.

    make demo && .venv/bin/python benchmarks/starter_demo.py [--demo kosent-demo]

Seconds and memory are those that the demo measured of its stages; the rest is in report/results.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import Result, report
from kosent.evaluation.folder import CONSTANT, RANDOM
from kosent.files import read_json

MINUTES, GIGABYTES = 15, 6
BLEU_RATIO, COSINE_GAIN, DISTINCT, REPLIES = 4.0, 0.12, 0.8, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("kosent-demo"))
    folder = parser.parse_args().demo
    timing = read_json(folder / "timing.json")
    results = read_json(folder / "report" / "results.json")
    base, tuned = (results["models"][name]["values"] for name in ("base", "tuned"))
    differences = {(row["first"], row["second"]): row for row in results["comparisons"]["pairs"] if row["metric"] == "cosine"}

    def gain(other: str) -> Result:
        low = differences["tuned", other]["interval"][0]
        return Result(f"cosine, tuned - {other}, lower bound of the interval", round(low, 3), "cosine", "> 0", low > 0)

    minutes = sum(stage["seconds"] for stage in timing.values()) / 60
    peak = max(stage["peak_memory_gb"] for stage in timing.values())
    ratio = tuned["bleu_char"] / base["bleu_char"]
    cosine = differences["tuned", "base"]["difference"]
    rows = [Result(f"stage {name}", stage["seconds"], "s", "", True) for name, stage in timing.items()]
    rows += [
        Result("whole demo after set-up", round(minutes, 1), "min", f"<= {MINUTES}", minutes <= MINUTES),
        Result("peak memory of a stage", peak, "GB", f"<= {GIGABYTES}", peak <= GIGABYTES),
        Result("held-out replies", results["replies"], "replies", f">= {REPLIES}", results["replies"] >= REPLIES),
        Result("BLEU-char, tuned / base", round(ratio, 2), "ratio", f">= {BLEU_RATIO}", ratio >= BLEU_RATIO),
        Result("cosine, tuned - base", round(cosine, 3), "cosine", f">= {COSINE_GAIN}", cosine >= COSINE_GAIN),
        gain(CONSTANT),
        gain(RANDOM),
        Result("distinct replies", round(tuned["distinct"], 3), "share", f">= {DISTINCT}", tuned["distinct"] >= DISTINCT),
        Result(
            "repetition, tuned", round(tuned["repetition"], 4), "share", f"< base ({base['repetition']:.3f})",
            tuned["repetition"] < base["repetition"],
        ),
        Result("replies with foreign script, tuned", tuned["foreign"], "share", "0", tuned["foreign"] == 0),
    ]  # fmt: skip
    report("starter_demo", rows)


if __name__ == "__main__":
    main()
