"""Real terminals for tests: `Pty` keeps every byte that a program writes, `Tmux` shows what a person would see.

`left_over` says what of those bytes is neither text nor one of the sequences that a run with harmless texts has written.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path

from injections import INJECTIONS

TESTS = Path(__file__).parent
MARK = "\x1b]9999;"
"""What a program under test writes between one place and the next, with the name of the place and a newline."""
PROMPT = "shell$ "
TEXT = "".join(f"{number}번째 문장이에요. 오늘은 바람이 조금 불고 햇볕이 따뜻했어요. " for number in range(1, 60))
"""What the slow model says."""


def encodable(text: str) -> str:
    """A file holds no half of a character."""
    return text.encode(errors="replace").decode()


MARKDOWN = [  # what Markdown itself turns into controls
    "안녕 https://evil.example/%1B%5D0;pwned%1B%5Cx 끝",
    "안녕 <https://evil.example/%1B%5B2J%C2%9B31m>",
    "안녕 &#x202e;gpj.exe &lrm;&rlm; &#x2066;끝",
    "안녕 &#27;]0;pwned&#7; &#x9b;2J &#13;끝",
    '안녕 [여기](https://evil.example/%1b%5b2J "%1b]0;pwned") ![그림 &#x202e;](https://evil.example/%1b)',
    "| 안녕 | &#x202e;표 |\n|---|---|\n| https://evil.example/%1B%5Dx | &rlm; |",
    "# 안녕 https://evil.example/%1B%5B2J\n> 인용 https://evil.example/%E2%80%AEgpj",
]
TEXTS = {
    "hostile": [encodable(text) for _, text in INJECTIONS] + MARKDOWN,
    "harmless": ["안녕하세요", "안녕 **굵게** [여기](https://example.org)", "```python\nprint('안녕')\n```", "- 안녕\n- 하세요"],
}
LINE = {"hostile": "안녕\x1b]52;c;cm0gLXJmIH4K\x07\u202e\x1b[2J\x9b31m하세요", "harmless": "안녕하세요"}
HALVES = "안녕\ud83d 하세요. 이 답은 조금 천천히 끝나요. 그래서 쓰는 동안에도 저장돼요."
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~])")
_MOVE = re.compile(r"\x1b\[\d+;\d+H")
_STYLE = re.compile(r"\x1b\[(?:0|(?:\d;)*(?:[34]8;2;\d+;\d+;\d+;?)+)m")
_UNWANTED = re.compile(r"\r(?!\n)|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 100, rows: int = 32) -> None:
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

    def rests(self) -> None:
        """Waits until for a second little more than a blinking cursor was drawn."""
        sizes = [len(self.written)]

        def quiet() -> bool:
            sizes.append(len(self.written))
            return len(sizes) > 20 and sizes[-1] - sizes[-20] < 2000

        until(quiet, self.text)

    def ended(self, seconds: float = 120.0) -> int:
        """Waits for the exit code; a program that does not end is killed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait(10)
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


def left_over(text: str, allowed: Set[str] = frozenset()) -> list[str]:
    """Sequences beside the allowed ones, and characters that a terminal obeys or that turn the direction of a line."""
    wrong = [*(sequences(text) - allowed), *set(_UNWANTED.findall(SEQUENCE.sub("", text)))]
    return sorted(ascii(one)[:80] for one in wrong)


class Tmux:
    """A shell in a terminal whose screen can be read, as a person would."""

    def __init__(self, env: Mapping[str, str], *, columns: int = 110, rows: int = 36) -> None:
        program = shutil.which("tmux")
        assert program, "tmux is needed to test the chat in a real terminal: apt install tmux"
        self._folder = tempfile.TemporaryDirectory(prefix="kosent-")  # pytest's own are too long for a socket's name
        self._command = [program, "-u", "-S", str(Path(self._folder.name) / "socket"), "-f", os.devnull]
        self._env = {**env, "PS1": PROMPT}
        size = ["-x", str(columns), "-y", str(rows)]
        self._tmux("new-session", "-d", *size, "bash", "--norc", "--noprofile")
        try:
            self.shows(PROMPT.strip())
        except BaseException:
            self.close()
            raise

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], env=self._env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: Enter, Escape, C-f, M-Enter."""
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def shows(self, *texts: str) -> str:
        """Waits until all of them are there; returns the screen."""
        until(lambda: all(text in self.screen() for text in texts), self.screen)
        return self.screen()

    def is_without(self, text: str) -> None:
        until(lambda: text not in self.screen(), self.screen)

    def flag(self, name: str) -> str:
        """What tmux knows of the terminal: alternate_on, cursor_flag, mouse_any_flag."""
        return self._tmux("display-message", "-p", f"#{{{name}}}").strip()

    def child(self) -> int:
        """The process that the shell is waiting for."""
        shell = self.flag("pane_pid")
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def fresh_shell(self) -> None:
        """The terminal as it is when a new window is opened."""
        self._tmux("respawn-pane", "-k")
        self.shows(PROMPT.strip())

    def close(self) -> None:
        with suppress(AssertionError):
            self._tmux("kill-server")
        self._folder.cleanup()
