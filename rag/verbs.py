"""`kosent rag search`, `list`, `show`, `remove` and `export`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent.errors import DataError, UsageError
from kosent.files import atomic_path, read_json
from kosent.progress import progress, say
from kosent.rag.adding_shown import skipped_file
from kosent.rag.collection import Collection
from kosent.rag.keyword_index import Entry
from kosent.rag.loaders import KINDS
from kosent.text import printable

WEAK = 3
"""Passages that `search` shows where none is near enough."""

if TYPE_CHECKING:
    from langchain_core.documents import Document


def search(args: argparse.Namespace) -> int:
    from kosent.rag.retriever import HybridRetriever

    if not args.question.strip():
        raise UsageError("There is no question.", hint=f'kosent rag search {args.name} "…"')
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UsageError(f"--threshold is a cosine, -1 to 1, not {args.threshold:g}.", hint="leave it out")
    if args.k < 1 or not 0 <= args.diversity <= 1:
        raise UsageError("-k is 1 or more, --diversity 0 to 1.", hint=f"kosent rag search {args.name} … -k 4 --diversity 0.3")
    where = _filter(args.filter)
    collection = Collection.open(args.name, server=args.chroma or "")
    options: dict[str, Any] = {"k": args.k, "threshold": args.threshold, "diversity": args.diversity, "filter": where}
    retriever = HybridRetriever(collection=collection, budget=sys.maxsize, **options)
    found = retriever.invoke(args.question)
    weak = [] if found or args.json else retriever.model_copy(update={"threshold": -1.0, "k": WEAK}).invoke(args.question)
    collection.close()
    if args.json:
        for document in found:
            print(json.dumps({"text": document.page_content, **document.metadata}, ensure_ascii=False))
    else:
        print("\n\n".join(_shown(number, document) for number, document in enumerate(found, 1)), end="\n" if found else "")
    if weak:
        say(f"Nothing in {collection.name!r} is near enough to this question for a model to be given it. The nearest:\n")
        print("\n\n".join(_shown(number, document) for number, document in enumerate(weak, 1)))
    elif not found and where is not None and not args.json:
        say(f"No document of {collection.name!r} fits the filter; `kosent rag show {collection.name}` lists sources, a passage "
            "that is found says its title and heading.")  # fmt: skip
    elif not found:
        say(f"Nothing in {collection.name!r} is near enough to this question.")
    return 0


def _filter(given: Sequence[str]) -> dict[str, Any] | None:
    parts: list[dict[str, Any]] = []
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or key not in ("source", "title", "kind", "page", "heading"):
            raise UsageError(
                f"--filter {one!r} is not KEY=VALUE with source, title, kind, page or heading.", hint="--filter page=3"
            )
        if key == "kind" and value not in KINDS.values():
            kinds = ", ".join(dict.fromkeys(KINDS.values()))
            raise UsageError(f"--filter {one!r}: the kinds are {kinds}.", hint="--filter kind=text")
        if key == "page" and not value.isdecimal():
            raise UsageError(f"--filter {one!r}: a page is a number.", hint="--filter page=3")
        parts.append(
            {key: int(value) if key == "page" else str(Path(value).expanduser().absolute()) if key == "source" else value}
        )
    return {"$and": parts} if len(parts) > 1 else parts[0] if parts else None


def _shown(number: int, document: Document) -> str:
    facts = document.metadata
    scores = [f"{name} {facts[key]:.2f}" for key, name in (("cosine", "cosine"), ("keyword", "words")) if key in facts]
    lines = [f"{number}. {place(facts)}   {', '.join(scores)}", f"   {facts['source']}"]
    lines += [f"   | {line}" for line in document.page_content.split("\n")]
    return printable("\n".join(lines))


def place(facts: dict[str, Any]) -> str:
    """Where a passage stands, for a person: title, heading, page."""
    page = f"p. {facts['page']}" if "page" in facts else ""
    return " · ".join(dict.fromkeys(filter(None, (str(facts.get("title", "")), str(facts.get("heading", "")), page))))


def list_all(args: argparse.Namespace) -> int:
    names = Collection.names()
    for name in names:
        try:
            collection = Collection.open(name, old=True)
            with collection.look() as (index, _):
                documents, chunks = index.counts()
            collection.close()
        except DataError as error:
            print(printable(f"{name}: {error}" + (f" Try: {error.hint}" if error.hint else "")))
            continue
        about = collection.description
        where = about.server or f"{sum(path.stat().st_size for path in collection.folder.rglob('*')) / 1e6:.1f} MB"
        passages = f"{chunks:,} passage{'' if chunks == 1 else 's'}"
        print(f"{name}: {_documents(documents)}, {passages}, embedder {about.fingerprint.embedder}, {where}")
    if not names:
        say("There is no collection yet. Try: kosent rag add 일기 FOLDER")
    return 0


def show(args: argparse.Namespace) -> int:
    collection = Collection.open(args.name, old=True)
    with collection.look() as (index, vectors):
        entries = index.documents()
        if args.document:
            (entry,) = _chosen(collection, entries, [args.document], one=True)
            print(printable(f"{entry.title}\n{entry.source}"))
            for number, chunk in enumerate(collection.chunks_of(entry, vectors), 1):
                facts = {"heading": chunk.heading} | ({"page": chunk.page} if chunk.page is not None else {})
                print(printable(f"\n[{number}] {place(facts)}".rstrip() + f"\n{chunk.text}"))
            return 0
    about = collection.description
    print(f"{about.name}: embedder {about.fingerprint.embedder}, {about.server or collection.folder}; added, passages, document")
    for entry in entries:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.added))
        note = f"   ({entry.notes})" if entry.notes else ""
        print(printable(f"  {day}  {entry.chunks:>5}  {entry.source}{note}"))
    if left_out := skipped(collection):
        print("Skipped:")
        for one in left_out.values():
            print(printable(f"  {one['said']}"))
    collection.close()
    return 0


def skipped(collection: Collection) -> dict[str, dict[str, str]]:
    """Source -> reason and what was said of it."""
    file = skipped_file(collection)
    return dict(read_json(file)) if file.exists() else {}


def _chosen(collection: Collection, entries: Sequence[Entry], wanted: Sequence[str], *, one: bool = False) -> Sequence[Entry]:
    """The documents that are meant: by path, by the end of a path, by title. Raises `UsageError`."""
    chosen: dict[str, Entry] = {}
    for name in wanted:
        path = str(Path(name).expanduser().absolute())
        found = [entry for entry in entries if entry.source == path or entry.source.startswith(f"{path}/")]
        found = found or [entry for entry in entries if entry.source.endswith(f"/{name}") or entry.title == name]
        if not found:
            for source, why in skipped(collection).items():
                if source == path or source.endswith(f"/{name}"):
                    raise UsageError(f"It was skipped: {why['said']}", hint=f"kosent rag show {collection.name}")
            raise UsageError(f"There is no document {name!r} in {collection.name!r}.", hint=f"kosent rag show {collection.name}")
        if one and len(found) > 1:
            hint = f"kosent rag show {collection.name} {shlex.quote(found[0].source)}"
            raise UsageError(f"{len(found)} documents of {collection.name!r} are called {name!r}.", hint=hint)
        chosen |= {entry.key: entry for entry in found}
    return tuple(chosen.values())


def remove(args: argparse.Namespace) -> int:
    collection = Collection.open(args.name, old=True)
    with collection.look() as (index, _):
        entries = index.documents()
    chosen = _chosen(collection, entries, args.documents)
    all_of_it = f"the collection {collection.name!r} with its {_documents(len(entries))}"
    what = f"{len(chosen)} of {_documents(len(entries))} of {collection.name!r}" if args.documents else all_of_it
    if not args.yes and not _agreed(f"Remove {what} from KoSent? The files themselves stay. [y/N] "):
        say("Nothing was removed.")
        return 1
    if args.documents:
        with collection.writer() as writer:
            writer.remove([entry.key for entry in chosen])
        collection.close()
    else:
        collection.delete()
    print(f"Removed {what}.")
    return 0


def _documents(number: int) -> str:
    return f"{number:,} document{'' if number == 1 else 's'}"


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to be asked.", hint="add --yes to remove without a question")
    return input(question).strip().lower() in ("y", "yes", "네", "예", "ㅛ")


def export(args: argparse.Namespace) -> int:
    target = Path(args.output)
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", hint=f"kosent rag export {args.name} {target / 'passages.jsonl'}")
    collection = Collection.open(args.name, old=True)
    with collection.look() as (index, vectors), atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        entries = index.documents()
        with progress("Writing", len(entries)) as advance:
            for number, entry in enumerate(entries):
                advance(number, "")
                for chunk in collection.chunks_of(entry, vectors):
                    row = {"source": entry.source, "title": entry.title, "heading": chunk.heading, "page": chunk.page}
                    row |= {"section": chunk.section, "start": chunk.start, "end": chunk.end, "text": chunk.text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            advance(len(entries), "")
    collection.close()
    print(printable(f"Wrote the passages of {len(entries):,} documents to {target}."))
    return 0


VERBS = {"search": search, "list": list_all, "show": show, "remove": remove, "export": export}
