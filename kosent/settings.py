"""What a user may set about chatting: defaults < config.toml < environment < flags.

    # $KOSENT_HOME/config.toml
    model = "ollama:kosent"
    lang = "ko"
    temperature = 0.7

The same names in capitals with KOSENT_ in front are environment variables: KOSENT_MODEL, KOSENT_LANG, KOSENT_TEMPERATURE …
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kosent.errors import UsageError
from kosent.locations import config_file

DEFAULT_CONTEXT = 2048
"""Context window in tokens, where neither the settings nor the model says another."""


@dataclass(frozen=True)
class Settings:
    model: str = ""
    """Which model answers (see `kosent.models`); empty means: find one."""
    fallback: str = ""
    """Models that are tried in turn when `model` cannot be used, separated by commas."""
    lang: str = "ko"
    """Language of the interface: "ko" or "en"."""
    temperature: float = 0.7
    """Sampling temperature; 0 is greedy and repeatable."""
    top_p: float = 0.9
    """Nucleus sampling: share of the probability mass kept, 0 to 1."""
    max_tokens: int = 256
    """Longest reply, in tokens."""
    context: int = 0
    """Context window, in tokens; prompt and reply share it. 0 means: the one of the model in Ollama, else 2048."""
    timeout: float = 600.0
    """Longest silence of a model server, in seconds; the first reply of a large model waits until it is loaded."""
    seed: int = 0
    """Seed of the sampler."""
    embedder: str = "use"
    """What new collections of documents are embedded with (see `kosent.embedders`)."""
    collection: str = ""
    """Collection of documents whose passages answers may rest on; empty means: none."""
    chroma: str = ""
    """Address of a Chroma server that keeps new collections; empty means: a folder here."""
    system: str = ""
    """System message; empty means: the one the model was trained with, else the founding project's."""


def converted(name: str, value: Any, source: str) -> Any:
    """`value` as the setting `name` holds it; raises `UsageError`, which begins with `source`, where it cannot."""
    kind = type(getattr(Settings(), name))
    try:
        chosen = kind(value)
    except (TypeError, ValueError):
        raise UsageError(f"{source}: {name} must be {kind.__name__}, not {value!r}.") from None
    if name == "lang" and chosen not in ("ko", "en"):
        raise UsageError(f'{source}: lang must be "ko" or "en", not {value!r}.')
    if kind in (int, float) and (
        not 0 <= chosen <= (1 if name == "top_p" else math.inf) or (chosen == 0 and name in ("max_tokens", "timeout"))
    ):
        raise UsageError(f"{source}: {name} is out of range: {value!r}.")
    return chosen


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. `flags` are command-line values; those that are None do not count.

    Raises `UsageError` for a config file that cannot be read, an unknown key or a value of the wrong kind.
    """
    names = {field.name for field in fields(Settings)}
    chosen: dict[str, Any] = {}
    path = config_file()
    if path.is_file():
        try:
            stored = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from None
        unknown = sorted(set(stored) - names)
        if unknown:
            raise UsageError(f"{path}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(names))}.")
        chosen.update({name: converted(name, value, str(path)) for name, value in stored.items()})
    for name in names:
        variable = f"KOSENT_{name.upper()}"
        if variable in os.environ:
            chosen[name] = converted(name, os.environ[variable], variable)
    for name, value in (flags or {}).items():
        if value is not None and name in names:
            chosen[name] = converted(name, value, f"--{name.replace('_', '-')}")
    return replace(Settings(), **chosen)
