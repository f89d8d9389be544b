"""Keys whose descriptions are names of texts (`kosent.tui.texts`), shown in the language of the chat."""

from __future__ import annotations

from dataclasses import replace

from textual.binding import ActiveBinding
from textual.screen import Screen, ScreenResultType

from kosent.tui.texts import Texts


class Localized(Screen[ScreenResultType]):
    """A screen whose bindings, and those of its widgets, are described in the language of `texts`."""

    texts: Texts

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        return {
            key: active._replace(
                binding=replace(
                    active.binding, description=self.texts.get(active.binding.description, active.binding.description)
                )
            )
            for key, active in super().active_bindings.items()
        }
