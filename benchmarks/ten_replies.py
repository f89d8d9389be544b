"""Writes docs/replies.md: ten held-out turns with the reply of the base and of the tuned model, unedited.

    make demo && .venv/bin/python benchmarks/ten_replies.py [--demo kosent-demo]

Every n-th turn is taken, from the first on, so that nobody chooses. Long replies of the base are cut at 120 characters, and marked.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from kosent.files import write_text

COUNT, CUT = 10, 120
TARGET = Path(__file__).resolve().parent.parent / "docs" / "replies.md"


def shown(reply: str) -> str:
    line = " ".join(reply.split())
    return line if len(line) <= CUT else f"{line[:CUT]} … ({len(line)} characters)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("kosent-demo"))
    with (parser.parse_args().demo / "report" / "replies.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: len(rows) // COUNT][:COUNT]
    lines = [
        "# Ten replies, unedited",
        "",
        f"Every {len(rows) // COUNT}th of the {len(rows)} held-out turns of `make demo`, greedy. Base and tuned model are Gemma 3 270M",
        "before and after; both saw the turns before this one. Written by `benchmarks/ten_replies.py`.",
        "",
    ]
    for row in chosen:
        lines += [
            f"**{row['user']}**",
            "",
            f"- a person wrote: {row['reference']}",
            f"- base: {shown(row['base'])}",
            f"- tuned: {shown(row['tuned'])}",
            "",
        ]
    write_text(TARGET, "\n".join(lines))
    print(f"Wrote {TARGET}.")


if __name__ == "__main__":
    main()
