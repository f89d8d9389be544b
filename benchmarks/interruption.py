"""`kill -9` in every stage of a full demo, then `kosent demo` again: are the final files those of a run that was left alone?

    .venv/bin/python benchmarks/interruption.py --straight kosent-demo --output kosent-demo-killed

`--straight` is a finished demo. The killed one takes about as long again; it can be run with the network cut off
(`unshare -n`), which is what the second line of the table was measured with.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import Result, report
from kosent.files import read_json

STAGES = ("prepare", "finetune", "export", "verify", "evaluate", "reply")


def kill_in(stage: str, folder: Path) -> None:
    command = [sys.executable, "-m", "kosent", "demo", "--output", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if f"] {stage}:" in line:
            break
    if stage == "finetune":
        while not list(folder.glob("run/checkpoints/*/complete.json")):
            time.sleep(0.1)
    time.sleep(2.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed in {stage}", file=sys.stderr)


def outputs(folder: Path) -> dict[str, str]:
    """`{path below the folder: sha256}` of all that the stages made, but for the metrics, which hold seconds and memory."""
    record = read_json(folder / "stages.json")
    made = {path: digest for stage in record.values() for path, digest in stage["outputs"].items() if "metrics" not in path}
    return {path.removeprefix(f"{folder}/"): digest for path, digest in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--straight", type=Path, default=Path("kosent-demo"))
    parser.add_argument("--output", type=Path, default=Path("kosent-demo-killed"))
    args = parser.parse_args()
    for stage in STAGES:
        kill_in(stage, args.output)
    subprocess.run([sys.executable, "-m", "kosent", "demo", "--output", str(args.output)], check=True)
    straight, killed = outputs(args.straight), outputs(args.output)
    different = sorted(path for path in straight if straight[path] != killed.get(path))
    print("different:", ", ".join(different) or "nothing", file=sys.stderr)
    report(
        "interruption",
        [
            Result("stages killed with kill -9", len(STAGES), "stages", "6", len(STAGES) == 6),
            Result("files compared", len(straight), "files", "", straight.keys() == killed.keys()),
            Result("files that differ", len(different), "files", "0", not different),
        ],
    )


if __name__ == "__main__":
    main()
