"""Every path KoSent chooses by itself. `KOSENT_HOME` moves them all.

Without it they lie in the platform's user data folder (`~/.local/share/kosent` on Linux).
What a user names on the command line (`--output`, `--data`) is not decided here.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The folder that holds everything below; `KOSENT_HOME` if set. Not created by asking."""
    override = os.environ.get("KOSENT_HOME")
    return Path(override).expanduser() if override else Path(platformdirs.user_data_dir("kosent", appauthor=False))


def private_home() -> Path:
    """`home()`, made if need be, readable by its owner alone."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def config_file() -> Path:
    return home() / "config.toml"


def conversations_file() -> Path:
    return home() / "conversations.sqlite3"


def starter_base() -> Path:
    """Gemma 3 270M as a Hugging Face folder, made from its registry packages."""
    return home() / "models" / "gemma-3-270m"


def exports_file() -> Path:
    """One line per GGUF that `kosent export` has written, newest last."""
    return home() / "exports.jsonl"


def collections_folder() -> Path:
    """One folder for each collection of documents (`kosent rag`)."""
    return home() / "rag"
