"""One reply to one message, streamed to standard output.

kosent ask "오늘 회사에서 실수를 해서 너무 속상해요."
echo "잠이 안 와" | kosent ask -
kosent ask --model ollama:kosent --temperature 0 "..."
"""

from __future__ import annotations

import argparse
import sys

from kosent.errors import UsageError
from kosent.settings import load_settings
from kosent.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", help='what to say; "-" reads standard input')
    parser.add_argument("--model", help="ollama:NAME, FILE.gguf or a run directory (default: see `kosent models`)")
    parser.add_argument("--system", help="system message (default: the one the model was trained with)")
    parser.add_argument("--temperature", type=float, help="0 is greedy and repeatable (default 0.7)")
    parser.add_argument("--max-tokens", type=int, help="longest reply in tokens (default 256)")
    parser.add_argument("--seed", type=int, help="seed of the sampler (default 0)")


def run(args: argparse.Namespace) -> int:
    message = sys.stdin.read() if args.message == "-" else args.message
    if not message.strip():
        raise UsageError("The message is empty.", hint='kosent ask "오늘 너무 힘들었어"')
    settings = load_settings(vars(args))
    from kosent.chain import build_chain

    for chunk in build_chain(settings=settings).stream({"message": message.strip()}):
        print(printable(chunk), end="", flush=True)
    print()
    return 0
