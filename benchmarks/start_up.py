"""How long `kosent --help` takes, and `pip install .` without extras in an empty environment.

    .venv/bin/python benchmarks/start_up.py [--runs 20]

The installation goes into a temporary folder, without pip's cache.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from common import Result, report

ROOT = Path(__file__).resolve().parent.parent


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    kosent = str(Path(sys.executable).with_name("kosent"))
    seconds(kosent, "--help")
    times = [seconds(kosent, "--help") for _ in range(runs)]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        install = seconds(python, "-m", "pip", "install", "-q", "--no-cache-dir", "-c", str(ROOT / "constraints.txt"), str(ROOT))
        seconds(python, "-m", "kosent", "--help")
    report(
        "start_up",
        [
            Result("kosent --help, median", round(statistics.median(times), 3), "s", "<= 0.2", statistics.median(times) <= 0.2),
            Result("kosent --help, slowest", round(max(times), 3), "s", "", True),
            Result("pip install . without extras", round(install, 1), "s", "<= 60", install <= 60),
        ],
    )


if __name__ == "__main__":
    main()
