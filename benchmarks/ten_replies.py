"""Writes docs/replies.md: ten held-out turns with the reply of the base and of the tuned model, unedited.

    make demo && .venv/bin/python benchmarks/ten_replies.py [--demo kosent-demo]

Every n-th turn is taken, from the first on, so that nobody chooses.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from kosent.files import write_text

COUNT = 10
TARGET = Path(__file__).resolve().parent.parent / "docs" / "replies.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("kosent-demo"))
    with (parser.parse_args().demo / "report" / "replies.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: len(rows) // COUNT][:COUNT]
    lines = [
        "# Ten replies, unedited",
        "",
        f"Every {len(rows) // COUNT}th of the {len(rows)} held-out turns of `make demo`, greedy, at most 256 tokens. Base and",
        "tuned model are Gemma 3 270M before and after; both saw the turns before. Written by `benchmarks/ten_replies.py`.",
        "",
    ]
    for row in chosen:
        lines += [
            f"**{row['user']}**",
            "",
            f"- a person wrote: {row['reference']}",
            f"- base: {' '.join(row['base'].split())}",
            f"- tuned: {' '.join(row['tuned'].split())}",
            "",
        ]
    write_text(TARGET, "\n".join(lines))
    print(f"Wrote {TARGET}.")


if __name__ == "__main__":
    main()
