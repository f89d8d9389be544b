"""The table of keys."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len
from textual.binding import Binding

from kosent.tui.composer import Composer
from kosent.tui.texts import Texts


def key_table(texts: Texts, owners: tuple[Any, Any, Any], keys_shown: int) -> str:
    """The keys of the app, of a message and of the list, in the language of `texts`; at most `keys_shown` for one thing."""
    app, bubble, sidebar = owners
    parts = [_rows(texts, [*Composer.BINDINGS, *app.BINDINGS], keys_shown)]
    parts += [f"{texts['help_message_keys']}\n{_rows(texts, bubble.BINDINGS, keys_shown)}"]
    parts += [f"{texts['help_list_keys']}\n{_rows(texts, sidebar.BINDINGS, keys_shown)}"]
    return "\n\n".join(parts)


def _rows(texts: Texts, bindings: list[Any], keys_shown: int) -> str:
    rows = [
        (" · ".join(_key(key) for key in binding.key.split(",")[:keys_shown]), texts[binding.description])
        for binding in bindings
        if isinstance(binding, Binding) and binding.description
    ]
    width = max(cell_len(keys) for keys, _ in rows) + 2
    return "\n".join(f"{keys}{' ' * (width - cell_len(keys))}{said}" for keys, said in rows)


def _key(key: str) -> str:
    arrows = {"left": "←", "right": "→", "up": "↑", "down": "↓", "escape": "Esc"}
    return "+".join(arrows.get(part, part.capitalize() if len(part) > 1 or "+" in key else part) for part in key.split("+"))
