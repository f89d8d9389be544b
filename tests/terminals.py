"""Real terminals for tests: `Pty` keeps every byte that a program writes, `Tmux` shows what a person would see.

`left_over` says what of those bytes is neither text nor one of the sequences that a run with harmless texts has written.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARK = "\x1b]9999;"
"""What a program under test writes between one place and the next, with the name of the place and a newline."""
TEXT = "".join(f"{number}번째 문장이에요. 오늘은 바람이 조금 불고 햇볕이 따뜻했어요. " for number in range(1, 60))
"""What the slow model says."""
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~])")
_MOVE = re.compile(r"\x1b\[\d+;\d+H")
_STYLE = re.compile(r"\x1b\[(?:0|(?:\d;)*(?:[34]8;2;\d+;\d+;\d+;?)+)m")
_UNWANTED = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def until(holds: Callable[[], object], what: Callable[[], str] = str, seconds: float = 60.0) -> None:
    """Waits; `what` says in the failure what there was instead."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited too long; last seen:\n{what()}"
        time.sleep(0.05)


def environment(home: Path, **more: str) -> dict[str, str]:
    """For a program of its own, with a terminal of many colours and nobody's clipboard."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "TMUX", "NO_COLOR")}
    ours = {"KOSENT_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
    return kept | ours | {"PYTHONPATH": str(TESTS)} | more


class Pty:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 110, rows: int = 42) -> None:
        self.master, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=dict(env), start_new_session=True, close_fds=True
        )
        os.close(other)
        self.written = bytearray()
        """All that reached the terminal so far."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # how Linux says that the program has gone
                return
            if not data:
                return
            self.written += data

    def send(self, text: str) -> int:
        """Types; returns how much had been written before."""
        before = len(self.written)
        data = text.encode()
        while data:
            data = data[os.write(self.master, data[:1024]) :]
        return before

    def text(self, since: int = 0) -> str:
        """What was written, without sequences: each line of it as it was drawn."""
        return SEQUENCE.sub("", self.written[since:].decode(errors="replace"))

    def shows(self, text: str, since: int = 0) -> None:
        until(lambda: text in self.text(since), lambda: self.text(since)[-3000:])

    def ended(self, seconds: float = 120.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._reader.join(10)
        os.close(self.master)


def places(written: bytes) -> dict[str, str]:
    """What was written at each place, by the names after `MARK`."""
    pieces = re.split(rf"{re.escape(MARK)}(\w+)\r?\n", written.decode())
    return dict(zip(pieces[1::2], pieces[::2], strict=False)) | {"end": pieces[-1]}


def sequences(text: str) -> set[str]:
    """The sequences in it, those that put the cursor somewhere or set colours in Textual's way left out."""
    found = {match.group() for match in SEQUENCE.finditer(text)}
    return {one for one in found if not _MOVE.fullmatch(one) and not _STYLE.fullmatch(one)}


def left_over(text: str, allowed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Sequences beside the allowed ones, and characters that a terminal obeys or that turn the direction of a line."""
    wrong = sequences(text) - allowed
    return sorted(map(ascii, wrong)) + sorted(set(map(ascii, _UNWANTED.findall(SEQUENCE.sub("", text)))))
