"""Collections of your own documents, for answers that rest on them. Everything stays on this machine.

    kosent rag add 일기 ~/일기 notes/*.pdf     reads folders, files and globs: TXT, Markdown, HTML, PDF, DOCX, HWPX, CSV, JSONL;
                                             typed again it adds what is new, replaces what changed, goes on where it stopped
    kosent rag search 일기 "잠이 안 오던 밤"    the passages that would be given to the model, with their scores
    kosent rag list                          the collections that are here
    kosent rag show 일기 [DOCUMENT]           its documents and what was skipped and why; or the passages of one document
    kosent rag remove 일기 [DOCUMENT ...]     takes documents out, or the whole collection; the files themselves stay
    kosent rag rebuild 일기 --embedder e5     makes it anew with another embedder
    kosent rag export 일기 FILE.jsonl         every passage with where it is from

Then: kosent chat --collection 일기    kosent ask --collection 일기 "언제 잠을 못 잤지?"
In Python: kosent.rag.open_retriever("일기"), a LangChain retriever. docs/rag.md tells more.
"""

from __future__ import annotations

import argparse

from kosent import extras
from kosent.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    add = verbs.add_parser("add", help="add documents to a collection, which is made if need be")
    _named(add)
    add.add_argument("paths", nargs="+", metavar="PATH", help="files, folders (with all that is in them) and globs")
    add.add_argument("--sync", action="store_true", help="also take out what came from these folders and is no longer there")
    add.add_argument(
        "--embedder", help="use (default), e5, hf:MODEL or ollama:MODEL; a collection keeps the one it was made with"
    )
    add.add_argument("--chroma", metavar="URL", help="keep a new collection in this Chroma server, which other machines share")
    add.add_argument("--max-megabytes", type=int, default=50, metavar="N", help="skip larger files (50)")

    search = verbs.add_parser("search", help="show what is found")
    _named(search)
    search.add_argument("question")
    search.add_argument("-k", type=int, default=4, metavar="N", help="most passages (4)")
    search.add_argument("--filter", action="append", default=[], metavar="KEY=VALUE", help="source, title, kind, page or heading")
    search.add_argument("--threshold", type=float, metavar="COSINE", help="least cosine; -1 lets everything through")
    search.add_argument("--diversity", type=float, default=0.0, metavar="0..1", help="prefer passages unlike each other (MMR)")
    search.add_argument("--json", action="store_true", help="one JSON object a passage")
    search.add_argument("--chroma", metavar="URL", help="a collection that another machine made there")

    verbs.add_parser("list", help="the collections that are here")

    show = verbs.add_parser("show", help="the documents of a collection, or the passages of one")
    _named(show)
    show.add_argument("document", nargs="?", help="path, end of a path, or title")

    remove = verbs.add_parser("remove", help="take out documents, or the whole collection")
    _named(remove)
    remove.add_argument("documents", nargs="*", metavar="DOCUMENT", help="paths, ends of paths, titles; none: the collection")
    remove.add_argument("--yes", action="store_true", help="do not ask")

    rebuild = verbs.add_parser("rebuild", help="make a collection anew")
    _named(rebuild)
    rebuild.add_argument("--embedder", default="", help="use, e5, hf:MODEL or ollama:MODEL (default: the one it has)")

    export = verbs.add_parser("export", help="write every passage to a JSONL file")
    _named(export)
    export.add_argument("output", metavar="FILE.jsonl")


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the collection, in any script: 일기")


def run(args: argparse.Namespace) -> int:
    extras.require("rag", what="`kosent rag`")
    from kosent.rag import adding_shown, verbs

    if args.verb == "add":
        if args.max_megabytes < 1:
            raise UsageError(f"--max-megabytes: 1 or more, not {args.max_megabytes}.")
        return adding_shown.add(args)
    if args.verb == "rebuild":
        return adding_shown.rebuild(args)
    return verbs.VERBS[args.verb](args)
