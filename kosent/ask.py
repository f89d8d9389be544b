"""One reply to one message, streamed to standard output: for the shell, for pipes and for scripts.

    kosent ask "오늘 회사에서 실수를 해서 너무 속상해요."
    kosent ask 오늘 너무 힘들었어                     words are joined by spaces
    echo "잠이 안 와" | kosent ask                    without words, what is piped in
    kosent ask "이 글을 요약해 줘:" - < notes.txt       "-" stands for standard input, a paragraph of its own
    kosent ask --continue "그래서 어떻게 하지?"         goes on in the conversation that was written to last
    kosent ask --collection 일기 "그날 내가 왜 울었지?"   with passages of your own documents (kosent rag)
    kosent ask --model ollama:kosent --temperature 0 "..."

--json prints one object when the reply has ended, and no stream: text, model, finish_reason ("stop", "length" or "interrupted"),
usage, safety (level, card, replaced), citations (number, text, source and, where known, title, heading, page, start and end in
characters, collection), dropped_turns, seconds, first_token_seconds and conversation (its number).

    kosent ask --json "잠이 안 와" | jq -r .text
    kosent ask --json "잠이 안 와" | jq '{level: .safety.level, tokens: .usage.output_tokens, seconds}'
    while read -r line; do kosent ask --no-history --json "$line"; done < lines.txt | jq -r '[.safety.level, .text] | @tsv'

The exchange is kept beside those of `kosent chat`; --no-history keeps nothing. Only the reply goes to standard output, without
anything that could move a terminal. Errors go to standard error; that an AI writes, and after the reply its sources, are said
there too, where it is a terminal. Exit codes: 0 a reply, 2 wrong usage, 3 no such collection, 5 no model or one that failed,
130 Ctrl-C, 141 nobody read the rest. What came of a reply that broke off is printed and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import unicodedata
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, TextIO, cast

from kosent.citations import called
from kosent.conversations import COMPLETE, STOPPED
from kosent.conversations.answer import Answer
from kosent.conversations.history import Record
from kosent.errors import UsageError
from kosent.safety import NOTICE
from kosent.settings import load_settings
from kosent.text import printable

if TYPE_CHECKING:
    from kosent.reply import Reply

EXAMPLE = 'kosent ask "오늘 너무 힘들었어"'
PIPE_CLOSED = 141
"""Exit code where what reads standard output has gone, as shells have it for SIGPIPE."""
KEPT_WITH_A_CONVERSATION = ("system", "temperature", "max_tokens", "seed", "collection")
"""Flags that belong to the conversation they begin."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", nargs="*", help='what to say; "-" stands for standard input')
    parser.add_argument(
        "--model", help="ollama:NAME, FILE.gguf, a run directory or openai:NAME@URL (default: see `kosent models`)"
    )
    parser.add_argument("--collection", metavar="NAME", help='answer from the documents of this collection; "" from none')
    parser.add_argument("--system", help="system message (default: the one the model was trained with)")
    parser.add_argument("--lang", choices=["ko", "en"], help="language of notices and of the card at a crisis (ko)")
    parser.add_argument("--temperature", type=float, help="0 is greedy and repeatable (default 0.7)")
    parser.add_argument("--max-tokens", type=int, help="longest reply in tokens (default 256)")
    parser.add_argument("--seed", type=int, help="seed of the sampler (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        "--continue",
        action="store_true",
        dest="go_on",
        help="go on in the latest conversation, with its system message and parameters; begins one where there is none",
    )
    kept.add_argument("--no-history", action="store_false", dest="history", help="keep nothing of this exchange")


def run(args: argparse.Namespace) -> int:
    message = _message(args.message)
    flags = {name: value for name, value in vars(args).items() if value is not None}
    settings = load_settings(flags)
    with closing(Record(_warn, settings.lang)) as record:
        if args.history:
            record.open(go_on=args.go_on)
        settings = load_settings({**record.settings, **flags})
        from kosent.chain import build_chain

        chain = build_chain(settings=settings, retriever=settings.collection, output="reply")
        if _is_terminal(sys.stderr):
            print(NOTICE[settings.lang], file=sys.stderr)
        with _undisturbed():
            record.begin(message, settings.model, {name: flags[name] for name in KEPT_WITH_A_CONVERSATION if name in flags})
        answer = Answer()
        try:
            _write(chain.stream({"message": message, "history": record.history}), answer, record, args.json)
        except BrokenPipeError:
            # what Python still holds for it at its end would fail once more, and loudly
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
    if _is_terminal(sys.stderr):
        if answer.known and answer.known.finish_reason == "length":
            print(CUT[settings.lang].format(tokens=settings.max_tokens), file=sys.stderr)
        if not args.json:
            for one in answer.citations():
                print(_source(one, settings.lang), file=sys.stderr)
    return 0


def _source(one: Mapping[str, Any], lang: str) -> str:
    name, source = called(one, lang), " ".join(one["source"].split())
    return f"[{one['number']}] {name}{f'  {source}' if name != source else ''}"


def _message(words: Sequence[str]) -> str:
    if not words and _is_terminal(sys.stdin):
        raise UsageError("There is no message.", hint=EXAMPLE)
    try:
        parts = [_piped() if piped else " ".join(group) for piped, group in groupby(words or ["-"], "-".__eq__)]
        "".join(parts).encode()
    except UnicodeError:
        raise UsageError(
            "The message is not UTF-8 text.", hint="iconv -f cp949 -t utf-8 notes.txt | kosent ask -     (a file from Windows)"
        ) from None
    message = "\n\n".join(part for part in (printable(part).strip() for part in parts) if part)
    if not message:
        raise UsageError("The message is empty.", hint=EXAMPLE)
    return unicodedata.normalize("NFC", message)


def _piped() -> str:
    return sys.stdin.read().removeprefix("\ufeff") if sys.stdin else ""  # a shell can close it


def _warn(text: str) -> None:
    print(f"kosent ask: {text}", file=sys.stderr)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _write(pieces: Iterator[Reply], answer: Answer, record: Record, as_json: bool) -> None:
    """Shows and keeps a reply as it comes; what came of one that breaks off, too. Raises what broke it off."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an emoji must not end a reply where the terminal's encoding lacks it
    status, card = STOPPED, ""
    try:
        with closing(cast("Generator[Reply]", pieces)):
            for piece in pieces:
                text = answer.took(piece)
                card = card or (text if not answer.text else "")
                if text and not as_json:
                    print(text, end="", flush=True)
                with _undisturbed():
                    record.save(answer.text, answer.facts())
        status = COMPLETE
    except BrokenPipeError:
        raise
    except Exception as error:
        status = answer.broke(error)
        raise
    finally:
        rest = answer.ended()
        with _undisturbed():
            record.save(answer.text, answer.facts(), status)
        if status == COMPLETE or card or answer.text:
            facts = _for_scripts(answer, card, status, record.conversation) if as_json else None
            print(json.dumps(facts, ensure_ascii=False) if as_json else rest, flush=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until what is inside has ended: between two statements of the store it would leave a transaction open, and
    the last write, the one with what came, would fail."""
    came: list[int] = []
    handlers = {number: handler for number in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(number))}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _for_scripts(answer: Answer, card: str, status: str, conversation: int | None) -> dict[str, Any]:
    known = answer.known
    safety = known.safety if known else None
    return {
        "text": card + answer.text,
        "model": known and known.model,
        "finish_reason": "interrupted" if status != COMPLETE else known and known.finish_reason,
        "usage": known and known.usage,
        "safety": safety and {"level": safety.level, "card": safety.card, "replaced": safety.replaced},
        "citations": answer.citations(),
        "dropped_turns": known.dropped_turns if known else 0,
        "seconds": answer.seconds and round(answer.seconds, 3),
        "first_token_seconds": answer.first and round(answer.first, 3),
        "conversation": conversation,
    }


CUT = {
    "ko": "(답변이 {tokens}토큰에서 끊겼어요. --max-tokens를 늘리면 더 길게 답해요.)",
    "en": "(cut off at {tokens} tokens; a larger --max-tokens lets it go on)",
}
