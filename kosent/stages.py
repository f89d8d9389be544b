"""Running commands one after another so that an interruption costs at most the stage under way.

`stages.json` remembers, for every stage, what it was begun with and the hashes of what it made. A finished stage is kept
while its command, inputs and outputs are what they were; one that was begun with the same inputs goes on; anything else is
made anew.
"""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosent.errors import KosentError
from kosent.files import read_json, sha256, write_json, write_text
from kosent.progress import say


@dataclass(frozen=True)
class Stage:
    name: str
    purpose: str
    """What it does and how long it takes, for the person waiting."""
    arguments: Sequence[str]
    """Arguments of `kosent`."""
    inputs: Sequence[Path]
    """Files whose change makes it run again."""
    outputs: Sequence[Path]
    """Files that it makes."""
    makes: Path
    """The folder or file that is removed before it runs anew."""
    capture: bool = False
    """Whether its standard output is also written to `outputs[0]`."""


class Stages:
    """The record of the stages in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "stages.json"
        self.record: dict[str, Any] = read_json(self.file) if self.file.is_file() else {}
        self.timing_file = folder / "timing.json"
        self.timing: dict[str, Any] = read_json(self.timing_file) if self.timing_file.is_file() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises `KosentError` when another process works in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise KosentError(f"Another `kosent demo` is working in {self.folder}.", hint="wait for it, or stop it") from None
            yield

    def reason_to_run(self, stage: Stage) -> str:
        """Why the stage has to run, in words; empty when it can be kept."""
        earlier = self.record.get(stage.name)
        if earlier is None:
            return "not made yet"
        if earlier["arguments"] != list(stage.arguments):
            return "its command changed"
        changed = [str(path) for path in stage.inputs if earlier["inputs"].get(str(path)) != sha256(path)]
        if changed:
            return f"changed since: {', '.join(changed)}"
        if not earlier["outputs"]:
            return "it was interrupted"
        lost = [str(path) for path in stage.outputs if not path.is_file()]
        if lost:
            return f"missing: {', '.join(lost)}"
        touched = [str(path) for path in stage.outputs if earlier["outputs"].get(str(path)) != sha256(path)]
        return f"no longer what it made: {', '.join(touched)}" if touched else ""

    def run(self, stage: Stage, place: str) -> None:
        """Runs or keeps one stage. Raises `KosentError` when its command fails."""
        reason = self.reason_to_run(stage)
        if not reason:
            say(f"{place} {stage.name}: kept")
            return
        say(f"{place} {stage.name}: {stage.purpose} ({reason})")
        if reason not in ("not made yet", "it was interrupted"):
            _remove(stage.makes)
        inputs = {str(path): sha256(path) for path in stage.inputs}
        self.record[stage.name] = {"arguments": list(stage.arguments), "inputs": inputs, "outputs": {}}
        write_json(self.file, self.record)
        began = time.monotonic()
        peak = _call(stage)
        self.timing[stage.name] = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gb": round(peak, 2)}
        self.record[stage.name]["outputs"] = {str(path): sha256(path) for path in stage.outputs}
        write_json(self.file, self.record)
        write_json(self.timing_file, self.timing)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _die_with_parent() -> None:
    """A stage must not go on writing when the command that started it was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _call(stage: Stage) -> float:
    """Runs `kosent` with the stage's arguments in a process of its own; returns its peak memory in GB (10^9 bytes)."""
    output = subprocess.PIPE if stage.capture else None
    command = [sys.executable, "-m", "kosent", *stage.arguments]
    process = subprocess.Popen(command, stdout=output, preexec_fn=_die_with_parent)
    try:
        if stage.capture:
            write_text(stage.outputs[0], _echo(process))
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        os.wait4(process.pid, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise KosentError(
            f"The stage {stage.name} {how}: kosent {' '.join(stage.arguments)}", hint="kosent demo     (goes on from here)"
        )
    return usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _echo(process: subprocess.Popen[bytes]) -> str:
    """Copies what the process prints to our standard output as it comes, and returns it."""
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while data := os.read(process.stdout.fileno(), 4096):
        piece = decoder.decode(data)
        text += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
    return text
