"""How the chat looks: dark, light, and one of high contrast for tired or weak eyes."""

from __future__ import annotations

from textual.theme import Theme

THEMES = (
    Theme(
        name="kosent-dark", dark=True, background="#16161d", surface="#1f1f28", panel="#2a2a37", foreground="#dcd7ba",
        primary="#7e9cd8", secondary="#957fb8", accent="#e6c384", success="#98bb6c", warning="#ffa066", error="#e46876",
    ),
    Theme(
        name="kosent-light", dark=False, background="#faf8f2", surface="#f1eee4", panel="#e4dfd1", foreground="#2b2a27",
        primary="#2f5f9e", secondary="#6b4fa0", accent="#9a6700", success="#3d6b1f", warning="#a24a00", error="#b3261e",
    ),
    Theme(
        name="kosent-contrast", dark=True, background="#000000", surface="#000000", panel="#1a1a1a", foreground="#ffffff",
        primary="#66d9ff", secondary="#ffb3ff", accent="#ffff00", success="#66ff66", warning="#ffcc00", error="#ff8080",
        variables={"text-muted": "#ffffff", "border": "#ffffff", "border-blurred": "#ffffff"},
    ),
)  # fmt: skip
DEFAULT = THEMES[0].name
NAMES = {"kosent-dark": "theme_dark", "kosent-light": "theme_light", "kosent-contrast": "theme_contrast"}
"""Theme -> the text that names it."""
