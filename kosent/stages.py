"""Running commands one after another so that an interruption costs at most the stage under way.

`stages.json` remembers, for every stage, what it was begun with and the hashes of what it made. A finished stage is kept
while its command, inputs and outputs are what they were; one that was begun with the same inputs goes on; anything else is
made anew. `call` (a command in a process of its own) and `locked` (a folder kept to one process) serve `kosent sweep` too.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import fcntl
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from kosent.errors import KosentError
from kosent.files import read_json, sha256, write_json, write_text
from kosent.progress import say

INTERRUPTED = "it was interrupted"
KOSENT = (sys.executable, "-m", "kosent")
"""How `kosent` is called in a process of its own."""
LAST_WORDS = 8_000
"""How many characters at its end are kept of what a process says on standard error."""


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
    makes: Path | None = None
    """The folder that must not hold anything else when it runs anew; what is there is moved aside, never removed."""
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

    def locked(self) -> AbstractContextManager[None]:
        """Raises `KosentError` when another process works in the folder."""
        return locked(self.folder, "kosent demo")

    def reason_to_run(self, stage: Stage) -> str:
        """Why the stage has to run, in words; empty when it can be kept."""
        earlier = self.record.get(stage.name)
        if earlier is None:
            return "not made yet"
        if earlier["arguments"] != self._arguments(stage):
            return "its command changed"
        changed = [str(path) for path in stage.inputs if earlier["inputs"].get(self._name(path)) != sha256(path)]
        if changed:
            return f"changed since: {', '.join(changed)}"
        if not earlier["outputs"]:
            return INTERRUPTED
        lost = [str(path) for path in stage.outputs if not path.is_file()]
        if lost:
            return f"missing: {', '.join(lost)}"
        touched = [str(path) for path in stage.outputs if earlier["outputs"].get(self._name(path)) != sha256(path)]
        return f"no longer what it made: {', '.join(touched)}" if touched else ""

    def _name(self, path: Path) -> str:
        """A path as it is recorded: relative to the folder where it lies in it, so that the folder can be moved."""
        inside = path.resolve().is_relative_to(self.folder.resolve())
        return path.resolve().relative_to(self.folder.resolve()).as_posix() if inside else str(path.resolve())

    def _hashes(self, paths: Sequence[Path]) -> dict[str, str]:
        return {self._name(path): sha256(path) for path in paths}

    def _arguments(self, stage: Stage) -> list[str]:
        return [argument.replace(str(self.folder), ".") for argument in stage.arguments]

    def run(self, stage: Stage, place: str) -> None:
        """Runs or keeps one stage. Raises `KosentError` when its command fails."""
        reason = self.reason_to_run(stage)
        if not reason:
            say(f"{place} {stage.name}: kept")
            return
        say(f"{place} {stage.name}: {stage.purpose} ({reason})")
        inputs = self._hashes(stage.inputs)
        if reason != INTERRUPTED and stage.makes is not None:
            _move_aside(stage.makes)
        self.record[stage.name] = {"arguments": self._arguments(stage), "inputs": inputs, "outputs": {}}
        write_json(self.file, self.record)
        began = time.monotonic()
        peak = _call(stage)
        self.timing[stage.name] = {"seconds": round(time.monotonic() - began, 1), "peak_memory_gb": round(peak, 2)}
        self.record[stage.name]["outputs"] = self._hashes(stage.outputs)
        write_json(self.file, self.record)
        write_json(self.timing_file, self.timing)


def _move_aside(folder: Path) -> None:
    """Renames a folder that has something in it to `NAME.old`, `NAME.old2` …, so that nothing of the user's is lost."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    names = (folder.with_name(f"{folder.name}.old{number or ''}") for number in (0, *range(2, 1000)))
    free = next(name for name in names if not name.exists())
    folder.rename(free)
    say(f"    {folder} was moved to {free}.")


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Keeps `folder` to this process. Raises `KosentError` when another `command` ("kosent demo") works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KosentError(f"Another `{command}` is working in {folder}.", hint="wait for it, or stop it") from None
        yield


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit code; negative: the number of the signal that killed it."""
    peak_memory_gb: float
    """In units of 10^9 bytes."""
    said: str
    """What was asked to be kept: all of its standard output, or the end of its standard error."""

    @property
    def how(self) -> str:
        return f"was killed by signal {-self.code}" if self.code < 0 else f"failed with exit code {self.code}"


def call(command: Sequence[str], keep: Literal["stdout", "stderr"] | None = None) -> Ended:
    """Runs a command in a process of its own, whose output shows through; what is to be kept of it is copied.

    On Ctrl-C and SIGTERM the process is interrupted once and waited for; then, as when it ended with 130, `KeyboardInterrupt`.
    """
    terminal = keep == "stderr" and sys.stderr.isatty()  # a bar is drawn on a terminal only
    reading, writing = (pty.openpty() if terminal else os.pipe()) if keep else (-1, -1)
    output, errors = (writing if keep == name else None for name in ("stdout", "stderr"))
    sink = sys.stdout if keep == "stdout" else sys.stderr
    # a group of its own: Ctrl-C reaches it once, through us, and it can write a checkpoint
    process = subprocess.Popen(command, stdout=output, stderr=errors, preexec_fn=die_with_parent, process_group=0)
    if keep:
        os.close(writing)
    try:
        said = _echo(reading, sink, LAST_WORDS if keep == "stderr" else None) if keep else ""
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        if keep:
            _echo(reading, sink)
        process.wait()
        raise
    finally:
        if keep:
            os.close(reading)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == 130:
        raise KeyboardInterrupt
    return Ended(process.returncode, usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6), said)


def die_with_parent() -> None:
    """A process must not go on writing when the command that started it was killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _call(stage: Stage) -> float:
    """Runs `kosent` with the stage's arguments; returns its peak memory in GB. Raises `KosentError` when it fails."""
    ended = call([*KOSENT, *stage.arguments], "stdout" if stage.capture else None)
    if ended.code != 0:
        again = shlex.join(["kosent", *sys.argv[1:]])
        raise KosentError(
            f"The stage {stage.name} {ended.how}: {shlex.join(['kosent', *stage.arguments])}",
            hint=f"{again}     (goes on from here)",
        )
    if stage.capture:
        write_text(stage.outputs[0], ended.said)
    return ended.peak_memory_gb


def _echo(descriptor: int, sink: TextIO, limit: int | None = None) -> str:
    """Copies to `sink` what comes until the other side is closed, and returns it, or its last `limit` characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while data := _read(descriptor):
        piece = decoder.decode(data)
        text = (text + piece)[-limit:] if limit else text + piece
        sink.write(piece)
        sink.flush()
    return text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError as error:
        if error.errno == errno.EIO:  # the end of a pseudo-terminal on Linux
            return b""
        raise
