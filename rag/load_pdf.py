"""PDF, read page by page in a process of its own (`kosent.rag.pdf_process`).

A few kilobytes of PDF can keep any reader busy for hours or fill the memory. The process may use only so much processor time and
memory, and nothing but text comes back from it. Scanned pages hold no text: nothing is recognised from pictures here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kosent
from kosent.rag.document import Limits, Loaded, Refusal, Section

LONGEST_WAIT = 10
"""Times the allowed processor time until the process is ended on a machine that is busy."""


def load_pdf(path: Path, limits: Limits) -> Loaded:
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(1024):
            raise Refusal("damaged", "it does not begin like a PDF")
    answer = _answer(path, limits)
    if "reason" in answer:
        raise Refusal(answer["reason"], answer["found"], answer["hint"])
    sections = [Section(text, page, heading) for text, page, heading in answer["sections"]]
    return Loaded(answer["title"] or path.stem, sections, answer["notes"])


def _answer(path: Path, limits: Limits) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "kosent.rag.pdf_process", str(path.absolute()), json.dumps(asdict(limits))]
    # -P: the folder one stands in may be that of the documents, and hold anything
    here = str(Path(kosent.__file__).absolute().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    seconds = LONGEST_WAIT * (limits.seconds + limits.pages)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise Refusal("too_big", f"reading it takes longer than {seconds:,} seconds") from None
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise Refusal("too_big", f"reading it takes longer than {limits.seconds} seconds and one for each page")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise Refusal("damaged", f"it ended the reader of PDF (exit code {done.returncode})") from None
    return dict(answer)
