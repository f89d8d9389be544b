"""One reply to one message, streamed to standard output; that an AI writes it goes to standard error.

kosent ask "오늘 회사에서 실수를 해서 너무 속상해요."
echo "잠이 안 와" | kosent ask -
kosent ask --model ollama:kosent --temperature 0 "..."
"""

from __future__ import annotations

import argparse
import sys

from kosent.errors import InterruptedReplyError, UsageError
from kosent.settings import load_settings
from kosent.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", help='what to say; "-" reads standard input')
    parser.add_argument(
        "--model", help="ollama:NAME, FILE.gguf, a run directory or openai:NAME@URL (default: see `kosent models`)"
    )
    parser.add_argument("--system", help="system message (default: the one the model was trained with)")
    parser.add_argument("--lang", choices=["ko", "en"], help="language of notices and of the card at a crisis (ko)")
    parser.add_argument("--temperature", type=float, help="0 is greedy and repeatable (default 0.7)")
    parser.add_argument("--max-tokens", type=int, help="longest reply in tokens (default 256)")
    parser.add_argument("--seed", type=int, help="seed of the sampler (default 0)")


def run(args: argparse.Namespace) -> int:
    message = sys.stdin.read() if args.message == "-" else args.message
    if not message.strip():
        raise UsageError("The message is empty.", hint='kosent ask "오늘 너무 힘들었어"')
    settings = load_settings(vars(args))
    from kosent.chain import build_chain
    from kosent.reply import Reply

    chain = build_chain(settings=settings, output="reply")
    print(Reply(lang=settings.lang).notice, file=sys.stderr)
    whole = Reply()
    try:
        for piece in chain.stream({"message": message.strip()}):
            print(printable(piece.text), end="", flush=True)
            whole += piece
    except InterruptedReplyError:
        print(flush=True)  # what came stays, on a line of its own
        raise
    print()
    if whole.finish_reason == "length":
        print(CUT[settings.lang].format(tokens=settings.max_tokens), file=sys.stderr)
    return 0


CUT = {
    "ko": "(답변이 {tokens}토큰에서 끊겼어요. --max-tokens를 늘리면 더 길게 답해요.)",
    "en": "(cut off at {tokens} tokens; a larger --max-tokens lets it go on)",
}
