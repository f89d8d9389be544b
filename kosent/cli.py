"""The `kosent` command: a table of names, each imported only when it is called.

A command module has a docstring (its `--help`), `add_arguments(parser)` and `run(args) -> int`. This is the one place where
an error becomes text and an exit code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from kosent import __version__
from kosent.errors import KosentError
from kosent.text import printable

COMMANDS = {
    "prepare": ("kosent.finetune.prepare", "corpora -> cleaned train/validation/test files and a report"),
    "finetune": ("kosent.finetune.finetune", "train a LoRA adapter, or all weights, on prepared dialogues"),
    "sweep": ("kosent.finetune.sweep", "compare runs: the same recipe with different settings, side by side"),
    "export": ("kosent.export.export", "merge the adapter into its base and write one GGUF file"),
    "verify": ("kosent.export.verify", "check that the GGUF says what the trained model says"),
    "evaluate": ("kosent.evaluation.evaluate", "compare models on held-out dialogues, with intervals"),
    "judge": ("kosent.evaluation.judge", "another model compares the replies of an evaluation"),
    "rate": ("kosent.evaluation.rate", "you compare them, without seeing whose they are"),
    "ask": ("kosent.ask", "one reply, streamed to standard output"),
    "chat": ("kosent.tui.chat", "talk in the terminal; conversations stay on this machine"),
    "rag": ("kosent.rag.command", "collections of your own documents, for answers that rest on them"),
    "models": ("kosent.models_command", "list the models that are here, or make the starter base"),
    "demo": ("kosent.demo", "the whole way from the starter corpus to a reply, resumable"),
}

WHOLE_OR_NOTHING = ("prepare",)
"""Commands whose output appears at their end."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def overview() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kosent COMMAND [OPTIONS]",
            "",
            "From a corpus of Korean emotional dialogue to a chatbot that runs on this machine alone.",
            "",
            *lines,
            "",
            "`kosent COMMAND --help` explains one command.  `kosent --version` prints the version.",
            "Start here:  kosent demo     (everything once, with the starter corpus and a small base)",
            "Files that KoSent places by itself lie under KOSENT_HOME (default: the user data folder).",
        ]
    )


def build_parser(name: str) -> tuple[argparse.ArgumentParser, Any]:
    """The parser of one command and its module."""
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"kosent {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return parser, module


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"kosent {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        print(f"kosent: there is no command {name!r}.", file=sys.stderr)
        print(f"Try: kosent {close[0] if close else '--help'}", file=sys.stderr)
        return 2
    try:
        signal.signal(signal.SIGTERM, _terminate)
        # conversations stay here even where the shell has tracing to LangSmith switched on
        os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
        parser, module = build_parser(name)
        return int(module.run(parser.parse_args(arguments[1:])))
    except KosentError as error:
        print(printable(f"kosent {name}: {error}"), file=sys.stderr)  # what a server says may be in it
        if error.hint:
            print(printable(f"Try: {error.hint}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        kept = "Nothing was written." if name in WHOLE_OR_NOTHING else "What was finished is kept."
        print(f"\nkosent {name}: stopped. {kept}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except PermissionError as error:
        place = f" {error.filename}" if error.filename else ""
        print(printable(f"kosent {name}: there is no permission to read or write{place}."), file=sys.stderr)
        there = next((one for one in (Path(error.filename or "."), *Path(error.filename or ".").parents) if one.exists()), Path())
        print(printable(f"Try: ls -ld {shlex.quote(str(there))}     (whose is it?)"), file=sys.stderr)
        return 1
    except (OSError, UnicodeError) as error:
        print(f"kosent {name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
