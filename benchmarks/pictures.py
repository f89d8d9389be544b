"""Draws the pictures of the chat in the README: the real app, talking with a real model, greedy.

python benchmarks/pictures.py --model kosent-demo/run      after `make demo`; writes docs/chat.svg and docs/chat-search.svg
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import tempfile
import time
from pathlib import Path

from rich.cells import cell_len

from kosent.conversations import ConversationStore
from kosent.settings import Settings
from kosent.tui.app import ChatApp, chat_app
from kosent.tui.backend import LocalBackend
from kosent.tui.bubble import Bubble
from kosent.tui.composer import Composer

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = (112, 34)
EARLIER = (
    ("퇴근길에 눈물이 났어", "많이 지치셨나 봐요. 오늘 어떤 일이 있었는지 들려주실래요?"),
    ("엄마한테 또 화를 냈어", "화를 내고 나니 마음이 더 무거우셨겠어요."),
    ("친구가 요즘 연락이 없어", "기다리는 동안 여러 생각이 드셨겠네요."),
)
SAID = ("오늘 회사에서 실수를 해서 너무 속상해요.", "다들 나만 쳐다보는 것 같았어요.")
FONTS = "D2Coding, 'Noto Sans Mono CJK KR', 'Nanum Gothic Coding', monospace"
_TEXT = re.compile(r'textLength="[\d.]+"([^>]*>)([^<]*)</text>')
CELL = 12.2
"""Width of a cell in the SVG that Rich writes; it counts a Hangul syllable as one."""
_FONT_FACE = re.compile(r"@font-face \{.*?\n    \}\s*", re.DOTALL)


def _as_wide_as_cells(found: re.Match[str]) -> str:
    width = CELL * cell_len(html.unescape(found.group(2)))
    return f'textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"{found.group(1)}{found.group(2)}</text>'


def save(chat: ChatApp, name: str) -> None:
    """The screen as SVG, with fonts that are on a Korean machine and nothing that is fetched."""
    svg = _FONT_FACE.sub("", chat.export_screenshot(title="kosent chat")).replace("Fira Code", "D2Coding")
    svg = _TEXT.sub(_as_wide_as_cells, svg)
    svg = re.sub(r"font-family: ?D2Coding[^;]*;", f"font-family: {FONTS};", svg)
    (DOCS / name).write_text(re.sub(r"terminal-\d+", "terminal", svg), encoding="utf-8")
    print(DOCS / name)


async def draw(model: str) -> None:
    store = ConversationStore()
    for question, answer in EARLIER:
        store.import_conversation([("user", question), ("assistant", answer)])
    store._db.execute("UPDATE conversation SET touched = touched - 90000 * id")
    store.pin(store.conversations()[0].id, True)
    chat = chat_app(LocalBackend(Settings(model=model, temperature=0.0)), store)
    chat.animation_level = "none"
    async with chat.run_test(size=SIZE) as pilot:
        await chat.pane.open(None)
        for text in SAID:
            replies, deadline = len(chat.query(Bubble)) + 2, time.monotonic() + 120
            chat.query_one(Composer).insert(text)
            await pilot.press("enter")
            while chat.pane.busy or len(chat.query(Bubble)) < replies:
                assert time.monotonic() < deadline, "no reply in two minutes"
                await pilot.pause(0.1)
        await pilot.pause(0.5)
        save(chat, "chat.svg")
        await pilot.press("ctrl+f", "났")
        await pilot.pause(0.5)
        await pilot.press("backspace", "나")
        await pilot.pause(0.5)
        save(chat, "chat-search.svg")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run directory, FILE.gguf or ollama:NAME")
    with tempfile.TemporaryDirectory() as home:
        os.environ["KOSENT_HOME"] = home
        asyncio.run(draw(parser.parse_args().model))


if __name__ == "__main__":
    main()
