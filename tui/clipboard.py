"""Copying out of the chat into the system's clipboard, by the program for it where there is one.

On WSL that is Windows' `clip.exe`. The terminal is asked besides (OSC 52), by Textual; whether a program succeeded is known and
said, whether a terminal obeyed never is, so where there is no program that is told apart.
"""

from __future__ import annotations

import os
import subprocess
from shutil import which
from typing import Literal

Outcome = Literal["copied", "copied_by_terminal"]

SECONDS = 5
"""Longest wait for the program."""


def copy(text: str) -> Outcome:
    """Copies `text`; says whether that is certain. May take a moment: run it in a thread.

    Raises `OSError` when there is a program and it failed.
    """
    command = program()
    if command is None:
        return "copied_by_terminal"
    encoded = text.encode("utf-16-le" if command[0] == "clip.exe" else "utf-8")
    try:
        # xclip stays behind to serve what it holds, so its output must not be waited for
        quiet = subprocess.DEVNULL
        done = subprocess.run(command, input=encoded, stdout=quiet, stderr=quiet, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]}: no answer in {SECONDS} s") from None
    if done.returncode:
        raise OSError(f"{command[0]}: exit code {done.returncode}")
    return "copied"


def program() -> list[str] | None:
    """The command that takes what it reads into the clipboard here, or None."""
    environment = os.environ.get
    candidates = [
        (bool(environment("WSL_DISTRO_NAME")), ["clip.exe"]),
        (os.uname().sysname == "Darwin", ["pbcopy"]),
        (bool(environment("WAYLAND_DISPLAY")), ["wl-copy"]),
        (bool(environment("DISPLAY")), ["xclip", "-selection", "clipboard"]),
        (bool(environment("DISPLAY")), ["xsel", "--clipboard", "--input"]),
    ]
    return next((command for here, command in candidates if here and which(command[0])), None)
