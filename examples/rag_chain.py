"""Answers that rest on your own documents: add a folder, ask, see which passages the model was given and where they stand.

pip install 'kosent[embedded,rag]'
python examples/rag_chain.py --model ollama:kosent 일기 ~/일기 "시험을 망친 날 나는 무엇을 했지?"

Typed again, only what has changed in the folder is read anew; `kosent rag list` shows the collection, too.
"""

from __future__ import annotations

import argparse

from kosent import build_chain
from kosent.rag import Collection, open_retriever
from kosent.rag.adding import add

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("collection", help="what the collection is called; it is made if it is not there")
parser.add_argument("folder", help="TXT, Markdown, HTML, PDF, DOCX, HWPX, CSV or JSONL in it are read")
parser.add_argument("question")
parser.add_argument("--model", default="", help="ollama:NAME, FILE.gguf, openai:NAME@URL (default: the one `kosent ask` takes)")
args = parser.parse_args()

# Documents: read, cut into chunks, embedded and indexed, all on this machine.
there = args.collection in Collection.names()
collection = Collection.open(args.collection) if there else Collection.create(args.collection)
summary = add(collection, [args.folder], sync=True)
print(f"{len(summary.added)} added, {len(summary.changed)} changed, {len(summary.unchanged)} unchanged")
for source, (_, why) in summary.skipped.items():
    print(f"skipped {source}: {why}")
collection.close()

# The chain: what is found goes into the prompt between borders, at most 1,600 characters of it.
chain = build_chain(args.model, retriever=open_retriever(args.collection, k=3), output="reply")
reply = chain.invoke({"message": args.question})
print(reply.text)

# What the model was given: the number as in [참고 1], the file, and the exact span in the section under that heading.
for one in reply.citations:
    place = one.metadata
    where = " · ".join(str(place[name]) for name in ("heading", "page") if name in place)
    print(f"[참고 {one.number}] {one.source} {where} {place['start']}-{place['end']} ({place['score']:.3f})")
    print(f"    {one.text[:80]}")
