"""A program on a pseudo-terminal whose output is read at once, and the time at which it first shows a text."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Terminal:
    """Starts `command` in 120 columns and 40 rows."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        names = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
        self._began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env={**os.environ, **names, **environment}, start_new_session=True
        )
        os.close(other)
        self._arrived: list[tuple[float, bytes]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not piece:
                return
            self._arrived.append((time.perf_counter() - self._began, piece))

    def seconds_until(self, text: str, timeout: float = 60.0) -> float:
        """Seconds from the start of the process until `text` was on the screen. Raises `TimeoutError`."""
        while time.perf_counter() - self._began < timeout:
            written = b""
            for at, piece in list(self._arrived):
                written += piece
                if text.encode() in _SEQUENCE.sub(b"", written):
                    return at
            time.sleep(0.05)
        shown = _SEQUENCE.sub(b"", b"".join(piece for _, piece in self._arrived))
        raise TimeoutError(f"{text!r} did not appear; there was: {shown[-2000:].decode(errors='replace')}")

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
