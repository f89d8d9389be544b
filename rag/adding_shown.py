"""`kosent rag add` and `rebuild`: what a person sees of them. What was skipped is kept beside the collection."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kosent.errors import DataError
from kosent.files import read_json, write_json
from kosent.progress import progress, say
from kosent.rag.adding import Summary, Told, files_of
from kosent.rag.adding import add as add_documents
from kosent.rag.collection import Collection
from kosent.rag.document import Limits
from kosent.rag.loaders import INSTEAD
from kosent.rag.rebuilding import rebuild as rebuild_collection
from kosent.settings import load_settings
from kosent.text import printable

SHOWN = 20
"""Skipped documents that are listed; `kosent rag show` lists all."""


def add(args: argparse.Namespace) -> int:
    if not Collection.is_here(args.name):
        files_of(args.paths, Summary())  # a path that is not there is said before a collection is made
    collection = _opened(args)
    limits = Limits(megabytes=args.max_megabytes)
    with ExitStack() as stack:
        summary = add_documents(collection, args.paths, sync=args.sync, limits=limits, told=_bar(stack, "Reading"))
    _keep_skipped(collection, summary)
    with collection.look() as (index, _):
        documents, chunks = index.counts()
    for line in _lines(collection, summary, documents, chunks):
        print(printable(line))
    collection.close()
    return 0 if documents or not summary.skipped else DataError.exit_code


def _opened(args: argparse.Namespace) -> Collection:
    settings = load_settings({"embedder": args.embedder, "chroma": args.chroma})
    if Collection.is_here(args.name):
        return Collection.open(args.name, embedder_name=args.embedder or "", server=args.chroma or "")
    collection = Collection.create(args.name, embedder_name=settings.embedder, server=settings.chroma)
    say(f"Made the collection {collection.name!r} (embedder {collection.description.fingerprint.embedder}).")
    return collection


def rebuild(args: argparse.Namespace) -> int:
    collection = Collection.open(args.name, old=True)
    with ExitStack() as stack:
        made = rebuild_collection(collection, args.embedder, told=_bar(stack, "Rebuilding"))
    embedder = made.collection.description.fingerprint.embedder
    print(f"{made.collection.name}: rebuilt with {embedder}; {_count(made.read, 'document')} read again", end="")
    print(f", {made.kept} no longer there and kept as they were." if made.kept else ".")
    for source in made.lost:
        print(printable(f"Lost: {source} is no longer there, and neither is what was read of it."))
    made.collection.close()
    return 0


def _bar(stack: ExitStack, what: str) -> Callable[[int], Told]:
    return lambda total: stack.enter_context(progress(what, total))


def skipped_file(collection: Collection) -> Path:
    return collection.folder / "skipped.json"


def _keep_skipped(collection: Collection, summary: Summary) -> None:
    """Adds to what was skipped before; what is in the collection now leaves it."""
    path = skipped_file(collection)
    kept = read_json(path) if path.exists() else {}
    for source in (*summary.added, *summary.changed, *summary.unchanged, *summary.removed):
        kept.pop(source, None)
    kept = {source: said for source, said in kept.items() if os.path.lexists(source)}
    kept |= {source: {"reason": reason, "said": said} for source, (reason, said) in summary.skipped.items()}
    write_json(path, dict(sorted(kept.items())))


def _lines(collection: Collection, summary: Summary, documents: int, chunks: int) -> list[str]:
    done = [
        ("added", summary.added),
        ("changed", summary.changed),
        ("unchanged", summary.unchanged),
        ("removed", summary.removed),
    ]
    parts = [f"{len(which)} {what}" for what, which in done if which] or ["nothing to add"]
    lines = [
        f"{collection.name}: {', '.join(parts)}. It holds {_count(documents, 'document')} in {_count(chunks, 'passage')} now."
    ]
    if summary.skipped:
        reasons = Counter(reason for reason, _ in summary.skipped.values())
        told = ", ".join(f"{reason.replace('_', ' ')} {number}" for reason, number in reasons.most_common())
        lines.append(f"Skipped: {told}")
        lines += [f"  {said}" for _, said in list(summary.skipped.values())[:SHOWN]]
        if len(summary.skipped) > SHOWN:
            lines.append(f"  … all of them: kosent rag show {collection.name}")
        if kept := [source for source in summary.skipped if source in summary.known]:
            lines.append(f"  What was read of {_count(len(kept), 'document')} of these before stays in the collection.")
    for source, note in list(summary.notes.items())[:SHOWN]:
        lines.append(f"Note: {source}: {note}")
    if summary.ignored:
        told = ", ".join(f"{kind} {number}" for kind, number in summary.ignored.most_common(5))
        lines.append(f"Left out: {_count(summary.ignored.total(), 'file')} of other kinds ({told})")
        lines += [f"  {kind}: {INSTEAD[kind]}" for kind in sorted(summary.ignored) if kind in INSTEAD]
    if summary.gone:
        lines.append(f"No longer in the folder, and kept: {_count(len(summary.gone), 'document')} (with --sync they are removed)")
    if documents:
        lines.append(f'Try: kosent rag search {collection.name} "…"   or   kosent chat --collection {collection.name}')
    return lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
