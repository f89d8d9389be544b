"""What `kosent rate` shows and the keys it reads: plain text in the terminal, one key at a time, or lines of a pipe."""

from __future__ import annotations

import os
import sys
import termios
import tty
import unicodedata
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kosent.evaluation.folder import Report
from kosent.evaluation.judging import votes
from kosent.evaluation.ranking import rank
from kosent.pages import spelled_out
from kosent.prompts import Message
from kosent.text import printable

KEYS = {
    "a": "a",
    "b": "b",
    "=": "=",
    "s": "s",
    "u": "u",
    "q": "q",
    "m": "m",
    "ㅡ": "m",
    "ㅁ": "a",
    "ㅠ": "b",
    "ㄴ": "s",
    "ㅕ": "u",
    "ㅂ": "q",
    "\x04": "q",
}
"""Also the letters that those keys write while the keyboard is Korean, and Ctrl-D."""
TEXTS = {
    "ko": {
        "welcome": "두 답 가운데 더 마음에 와닿는 답을 골라 주세요.\n어느 모델의 답인지는 모두 평가하신 뒤에 알려 드려요.",
        "identical": "두 답이 똑같은 {number}쌍은 묻지 않아요.",
        "outdated": "그사이 답이 바뀐 {number}쌍의 평가는 judgements/outdated로 옮겼고, 집계하지 않아요.",
        "user": "사용자",
        "assistant": "챗봇",
        "question": "어느 답이 더 나은가요?",
        "keys": "a A · b B · = 비슷해요 · s 건너뛰기 · u 되돌리기 · m 다 보기 · q 저장하고 나가기",
        "more": "… {number}자 더 있어요 (m)",
        "nothing": "(빈 답)",
        "no_undo": "되돌릴 평가가 없어요.",
        "unknown": "a, b, =, s, u, m, q 가운데 하나를 눌러 주세요.",
        "left": "여기까지 저장했어요. 같은 명령으로 이어서 하실 수 있어요.\n결과는 모두 평가하신 뒤에 보여 드려요.",
        "all_done": "모두 평가하셨어요.",
        "results": "결과: 평가 {number}개, 건너뛴 것 {skipped}개",
        "few": "승률은 평가가 {number}개 이상 모이면 보여 드려요.",
        "columns": "모델|상대|이김|비슷함|짐|승률 (95% 구간)",
        "strengths": "순위 (Bradley-Terry 점수와 95% 구간)",
    },
    "en": {
        "welcome": "Choose the reply that does you more good.\nWhich model wrote it is said when you have judged all.",
        "identical": "{number} pairs whose replies are the same are not asked.",
        "outdated": "{number} votes are of replies that have changed since; they are in judgements/outdated now.",
        "user": "User",
        "assistant": "Chatbot",
        "question": "Which reply is better?",
        "keys": "a A · b B · = alike · s skip · u undo · m read on · q save and leave",
        "more": "… {number} letters more (m)",
        "nothing": "(nothing)",
        "no_undo": "There is no vote to take back.",
        "unknown": "Press one of a, b, =, s, u, m, q.",
        "left": "All is saved. The same command goes on from here.\nThe results come when you have judged all.",
        "all_done": "You have judged all of them.",
        "results": "Results: {number} votes, {skipped} skipped",
        "few": "Win rates are shown from {number} votes on.",
        "columns": "model|against|wins|alike|losses|win rate (95 % interval)",
        "strengths": "Ranking (Bradley-Terry strength, 95 % interval)",
    },
}
AROUND = 12
"""Lines of the screen for borders, the last message and the keys."""


def visible(text: str) -> str:
    """`text` for a terminal, with what nobody would see written as <U+202E>; joined emoji stay whole."""
    return printable(spelled_out(text))


class Screen:
    """The interface of one rating, in `lang`."""

    def __init__(self, lang: str) -> None:
        self.texts = TEXTS[lang]
        self.console = Console(highlight=False)

    def welcome(self, *, identical: int, outdated: int) -> None:
        self._say("welcome", style="bold")
        if identical:
            self._say("identical", number=identical)
        if outdated:
            self._say("outdated", number=outdated)

    def show(self, messages: Sequence[Message], replies: Sequence[str], place: int, total: int, *, whole: bool = False) -> None:
        """A conversation and its two replies, long ones cut so that both are on the screen, unless `whole`."""
        lines = max(3, (self.console.height - AROUND) // 2)
        self.console.print()
        self.console.print(Rule(f"{place}/{total}", style="dim"))
        for message in messages:
            if message["role"] != "system":
                name = self.texts[message["role"]]
                self.console.print(Text.assemble((f"{name}: ", "bold"), visible(message["content"])))
        for letter, reply in zip("AB", replies, strict=True):
            told = self._cut(visible(reply).strip(), lines, whole) if reply.strip() else Text(self.texts["nothing"], style="dim")
            title = Text(f" {letter} ", style="bold")
            self.console.print(Panel(told, title=title, title_align="left", box=box.ROUNDED, padding=(0, 1)))

    def _cut(self, text: str, lines: int, whole: bool) -> Text:
        wrapped = Text(text).wrap(self.console, max(10, self.console.width - 4))
        if whole or not self.console.is_terminal or len(wrapped) <= lines:
            return Text(text)
        kept = Text("\n").join(wrapped[: lines - 1])
        more = self.texts["more"].format(number=len(text) - len(kept.plain))
        return Text.assemble(kept, "\n", (more, "dim"))

    def key(self) -> str:
        """One of a, b, =, s, u, m, q; the end of the input is q."""
        by_key = bool(sys.stdin and sys.stdin.isatty())
        before = termios.tcgetattr(sys.stdin) if by_key else None
        try:
            if by_key:  # what was typed before the replies could be read is no vote
                tty.setcbreak(sys.stdin, termios.TCSAFLUSH)
            self._say("question", style="bold")
            self._say("keys", style="dim")
            while (typed := _typed_key() if by_key else _typed_line()) not in KEYS:
                self._say("unknown")
        finally:
            if before is not None:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        self.console.print(Text(f"→ {KEYS[typed]}", style="bold green"))
        return KEYS[typed]

    def nothing_to_take_back(self) -> None:
        self._say("no_undo")

    def nothing_left(self) -> None:
        self._say("all_done")

    def left(self) -> None:
        self.console.print()
        self._say("left")

    def results(self, report: Report, rows: Sequence[dict[str, Any]], enough: int) -> None:
        """Whose replies they were, and how often they won."""
        given = votes(report, rows)
        self.console.print()
        self._say("results", style="bold", number=len(given), skipped=sum(row["outcome"] == "skip" for row in rows))
        if not given:
            return
        ranking = rank(given)
        *names, rate = self.texts["columns"].split("|")
        table = Table(box=box.SIMPLE)
        for index, name in enumerate([*names, rate] if len(given) >= enough else names):
            table.add_column(name, justify="left" if index < 2 else "right")
        for pair in ranking["pairs"]:
            cells = [Text(visible(pair["first"])), Text(visible(pair["second"]))]
            cells += [Text(str(pair[key])) for key in ("wins", "ties", "losses")]
            if len(given) >= enough:
                low, high = pair["interval"]
                cells.append(Text(f"{pair['win_rate']:.0%} ({low:.0%}–{high:.0%})"))
            table.add_row(*cells)
        self.console.print(table)
        if len(given) < enough:
            self._say("few", number=enough)
            return
        for group in ranking["strengths"]:
            self._say("strengths", style="bold")
            for place, row in enumerate(group, 1):
                bounds = "" if row["interval"] is None else " ({:+.2f} … {:+.2f})".format(*row["interval"])
                self.console.print(Text(f"  {place}. {visible(row['model'])}  {row['strength']:+.2f}{bounds}"))

    def _say(self, name: str, *, style: str = "", **values: Any) -> None:
        self.console.print(Text(self.texts[name].format(**values), style=style))


def _typed_key() -> str:
    """What one press of a key wrote; several characters at once, as an arrow key or a paste writes them, are nothing."""
    data = os.read(sys.stdin.fileno(), 64)
    return _plain(data.decode(errors="replace").strip("\r\n")) if data else "q"


def _typed_line() -> str:
    line = sys.stdin.readline() if sys.stdin else ""  # a shell can close it
    return _plain(line.strip()) if line else "q"


def _plain(typed: str) -> str:
    return unicodedata.normalize("NFC", typed).lower()
