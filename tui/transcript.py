"""The messages of a conversation, of which only a window is mounted: a long one opens at once and scrolls as far as it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from textual.containers import VerticalScroll
from textual.widgets import Static

from kosent.conversations import StoredMessage
from kosent.tui.bubble import Bubble

WINDOW = 24
"""Messages mounted at first."""
STEP = 12
"""Messages added at an end that is scrolled to."""
MOST = 48
"""Messages mounted at any time."""


class Transcript(VerticalScroll, can_focus=False):
    """`messages` are all there are, of which `start` to `stop` are mounted."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; padding-top: 1; scrollbar-gutter: stable; }
    Transcript #welcome { padding: 0 2; }
    """

    def __init__(self, make_bubble: Callable[[StoredMessage], Bubble], welcome: str) -> None:
        super().__init__(id="transcript")
        self.make_bubble, self.welcome = make_bubble, welcome
        self.messages: list[StoredMessage] = []
        self.start = self.stop = 0
        self._moving = False
        self._changing = asyncio.Lock()
        """What mounts and removes does so one after another."""

    async def show(self, messages: Sequence[StoredMessage], at: int | None = None) -> None:
        """Shows these messages, the newest of them or the one whose id is `at`."""
        async with self._changing:
            await self._show(messages, at)

    async def _show(self, messages: Sequence[StoredMessage], at: int | None) -> None:
        self.messages = list(messages)
        place = next((number for number, one in enumerate(self.messages) if one.id == at), None)
        if place is None:
            await self._mount_window(len(self.messages) - WINDOW, len(self.messages))
            self.anchor()
        else:
            await self._mount_window(place - WINDOW // 2, place + WINDOW // 2)
            self.anchor(False)
            bubble = self.bubble(self.messages[place].id)
            if bubble is not None:
                bubble.focus()
                self.call_after_refresh(lambda: self.scroll_to_widget(bubble, animate=False, top=True))

    async def _mount_window(self, start: int, stop: int) -> None:
        self.start, self.stop = max(start, 0), min(stop, len(self.messages))
        self._moving = True
        with self.app.batch_update():
            await self.remove_children()
            if not self.messages:
                await self.mount(Static(self.welcome, id="welcome", markup=False))
            await self.mount_all([self.make_bubble(message) for message in self.messages[self.start : self.stop]])
        self.call_after_refresh(self._settled)

    def _settled(self) -> None:
        self._moving = False
        self._look_for_more()  # what was scrolled to meanwhile

    def bubbles(self) -> list[Bubble]:
        return list(self.query_children(Bubble))

    def bubble(self, message: int) -> Bubble | None:
        return next((one for one in self.bubbles() if one.message.id == message), None)

    async def add(self, message: StoredMessage) -> None:
        """A new message at the end, which is then what is seen."""
        async with self._changing:
            self.messages.append(message)
            if self.stop < len(self.messages) - 1:
                await self._mount_window(len(self.messages) - WINDOW, len(self.messages))
            else:
                self.stop = len(self.messages)
                await self.query_children("#welcome").remove()
                await self.mount(self.make_bubble(message))
                if self.stop - self.start > MOST:
                    self.start += STEP
                    await self.remove_children(self.bubbles()[:STEP])
            self.anchor()

    def keep(self, message: StoredMessage) -> None:
        """Notes what a message has become, for when it is mounted again."""
        place = next((number for number, one in enumerate(self.messages) if one.id == message.id), None)
        if place is not None:
            self.messages[place] = replace(message, versions=self.messages[place].versions)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._moving:
            self._look_for_more()

    def _look_for_more(self) -> None:
        if self.scroll_y <= 2 and self.start > 0:
            self._moving = True
            self.call_next(self._more_above)
        elif self.scroll_y >= self.max_scroll_y - 2 and self.stop < len(self.messages):
            self._moving = True
            self.call_next(self._more_below)

    async def _more_above(self) -> None:
        async with self._changing:
            if not self.bubbles() or self.start == 0:
                self._moving = False
                return
            first = self.bubbles()[0]
            below = self.scroll_y - first.virtual_region.y
            added = self.messages[max(self.start - STEP, 0) : self.start]
            with self.app.batch_update():
                await self.mount_all([self.make_bubble(message) for message in added], before=0)
                going = self.bubbles()[MOST:]
                await self.remove_children(going)
            self.start -= len(added)
            self.stop -= len(going)
        self.call_after_refresh(self._stay_at, first, below)

    async def _more_below(self) -> None:
        async with self._changing:
            if not self.bubbles() or self.stop == len(self.messages):
                self._moving = False
                return
            last = self.bubbles()[-1]
            below = self.scroll_y - last.virtual_region.y
            added = self.messages[self.stop : self.stop + STEP]
            with self.app.batch_update():
                await self.mount_all([self.make_bubble(message) for message in added])
                going = self.bubbles()[:-MOST]
                await self.remove_children(going)
            self.stop += len(added)
            self.start += len(going)
        self.call_after_refresh(self._stay_at, last, below)

    def _stay_at(self, bubble: Bubble, below: float) -> None:
        """What was seen stays where it was."""
        self.scroll_to(y=bubble.virtual_region.y + below, animate=False, immediate=True)
        self.call_after_refresh(self._settled)

    async def to_start(self) -> None:
        async with self._changing:
            if self.start > 0:
                self.anchor(False)
                await self._mount_window(0, WINDOW)
        self.scroll_home(animate=False)

    async def to_end(self) -> None:
        async with self._changing:
            if self.stop < len(self.messages):
                await self._mount_window(len(self.messages) - WINDOW, len(self.messages))
        self.anchor()
