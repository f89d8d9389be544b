"""Collections for the tests: a quick embedder and analyser, small documents, processes that can be killed, and what must hold."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kosent.rag.collection
import kosent.rag.pipeline
from kosent.rag import server_lock
from kosent.rag.adding import add
from kosent.rag.collection import Collection
from kosent.rag.keyword_index import Entry
from kosent.rag.loaders import load
from kosent.rag.rebuilding import rebuild
from kosent.rag.retriever import HybridRetriever
from kosent.rag.splitting import Chunk
from kosent.rag.stored import Prepared, chunk_of, searched_text

WORDS = (
    "아침",
    "보일러",
    "찬물",
    "귤",
    "상자",
    "이웃",
    "산책",
    "우산",
    "비",
    "도서관",
    "약속",
    "전화",
    "어머니",
    "김치",
    "냉장고",
)


class Bigrams:
    """Texts with the same pairs of letters are near each other."""

    prefixes = ("", "")
    threshold = -1.0

    def __init__(self, name: str = "use", dimension: int = 32) -> None:
        self.name, self.dimension = name, dimension

    def passages(self, texts: Sequence[str]) -> Any:
        found = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in zip(found, texts, strict=True):
            for pair in pairwise(text):
                row[zlib.crc32("".join(pair).encode()) % self.dimension] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    questions = passages


class Spaces:
    """What stands between spaces is a word."""

    def content(self, texts: Sequence[str]) -> list[list[str]]:
        return [text.split() for text in texts]


def be_quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kosent.rag.collection, "embedder", lambda name="use": Bigrams(name, 48 if name == "e5" else 32))
    patch.setattr(kosent.rag.collection, "shared", Spaces)
    patch.setattr(kosent.rag.pipeline, "shared", Spaces)
    patch.setattr(kosent.rag.pipeline, "CHUNKS_AT_ONCE", 16)


@contextmanager
def quick_home(patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A KOSENT_HOME in memory where that can be had: what a killed process has written is there all the same, and fsync takes no
    time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        patch.setenv("KOSENT_HOME", folder)
        be_quick(patch)
        yield Path(folder)


def write_documents(folder: Path, number: int, seed: int = 0) -> Path:
    """Of one chunk or some, each with a word of its own: `낱말SEED-NUMBER`."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for one in range(number):
        sentences = [" ".join(chance.choices(WORDS, k=8)) + "." for _ in range(chance.choice((1, 4, 30)))]
        text = f"낱말{seed}-{one} {' '.join(sentences)}"
        (folder / f"{one:03} 글.txt").write_text(text, encoding="utf-8")
    return folder


def search(collection: Collection, question: str, **options: Any) -> list[Any]:
    return HybridRetriever(collection=collection, analyser=Spaces(), **options).invoke(question)


# --- in a process of its own

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["chromadb", "langchain_text_splitters", "pytest", "kosent.rag.load_text", "kosent.rag.rebuilding", "kosent.rag.retriever"]
)


def start(work: Callable[..., None], home: Path, *arguments: Any) -> Any:
    process = _processes.Process(target=_run, args=(work, home, arguments), daemon=True)
    process.start()
    return process


def run(work: Callable[..., None], home: Path, *arguments: Any) -> None:
    process = start(work, home, *arguments)
    process.join(120)
    assert process.exitcode == 0, (home / "trouble.txt").read_text(encoding="utf-8")


def _run(work: Callable[..., None], home: Path, arguments: Sequence[Any]) -> None:
    os.environ["KOSENT_HOME"] = str(home)
    be_quick(pytest.MonkeyPatch())
    try:
        work(*arguments)
    except BaseException:
        (home / "trouble.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise


def adding(name: str, folder: Path, sync: bool = False, die: str = "") -> None:
    """`die`: "MODULE:CLASS.METHOD:before|after:TIMES" ends the process there, as `kill -9` does."""
    if die:
        _die_at(die)
    collection = Collection.open(name) if Collection.is_here(name) else Collection.create(name)
    add(collection, [str(folder)], sync=sync)
    collection.close()


def rebuilding(name: str, die: str = "") -> None:
    if die:
        _die_at(die)
    rebuild(Collection.open(name)).collection.close()


def adding_up_to(limit: int, deadly: bool) -> None:
    """No file may grow beyond `limit` bytes: the write that tries kills the process, or fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    collection = Collection.open("일기")
    with collection.writer() as writer:
        writer.put(prepared(250, 3000, 1024))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for begin in range(3250, 4500, 250):
            writer.put(prepared(250, begin, 1024))


def adding_without_room(name: str, folder: Path) -> None:
    """Chroma's SQLite file may not grow."""
    collection = Collection.open(name)
    with collection.look():
        size = (collection.chroma_folder / "chroma.sqlite3").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    add(collection, [str(folder)])


def holding(name: str, begun: Path, end: Path, seconds: float = 120.0) -> None:
    """Writes until the file `end` is there; on a server the lock runs out after `seconds`."""
    server_lock.SECONDS = seconds
    collection = Collection.open(name)
    with collection.writer():
        begun.touch()
        wait_for(end)
    collection.close()


def adding_on(name: str, folder: Path, die: str, seconds: float) -> None:
    server_lock.SECONDS = seconds
    adding(name, folder, die=die)


def searching(name: str) -> None:
    collection = Collection.open(name)
    assert search(collection, "아침 산책")
    collection.close()


def changing_often(name: str, folder: Path, rounds: int) -> None:
    """Beside each document a file `.all` has all that the document ever said, before it says it."""
    collection = Collection.open(name)
    for number in range(rounds):
        for path in write_documents(folder.with_name("새 글"), 12, seed=number).iterdir():
            text = load(path).sections[0].text
            with (folder / f"{path.name}.all").open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
            if (number + int(path.name[:3])) % 5:
                shutil.copy(path, folder)
            else:
                (folder / path.name).unlink(missing_ok=True)
        add(collection, [str(folder)], sync=True)
    collection.close()


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path.name} never came")


def _die_at(place: str) -> None:
    module, _, rest = place.partition(":")
    path, when, times = rest.split(":")
    owner, _, method = path.rpartition(".")
    holder = __import__(module, fromlist=["_"])
    holder = getattr(holder, owner) if owner else holder
    original, calls = getattr(holder, method), count(1)

    def instead(*arguments: Any, **options: Any) -> Any:
        last = next(calls) == int(times)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(holder, method, instead)


# --- what must hold


def check(name: str, *versions: Path) -> dict[str, str]:
    """The collection opens; each of its documents is there whole, as it is in the folder or in one of the earlier `versions` of
    it; nothing is there twice; it is found. Source -> text of its first section."""
    collection, found = Collection.open(name), dict[str, str]()
    with collection.look() as (index, vectors):
        entries = index.documents()
        assert len({entry.source for entry in entries}) == len(entries)
        assert sorted(index.chunk_ids()) == sorted(f"{entry.key}:{one}" for entry in entries for one in range(entry.chunks))
        assert set(index.chunk_ids()) <= set(vectors.ids())
        stored, kept = vectors.vectors(index.chunk_ids()), vectors.chunks(index.chunk_ids())
        for entry in entries:
            ids = [f"{entry.key}:{one}" for one in range(entry.chunks)]
            chunks = [chunk_of(*kept[one]) for one in ids]
            files = [version / Path(entry.source).name for version in versions]
            texts = [load(file).sections[0].text for file in files if file.exists()]
            (whole,) = [text for text in texts if all(one.text == text[one.start : one.end] for one in chunks)][:1]
            assert chunks[0].start == 0 and chunks[-1].end == len(whole)
            assert all(one.end >= two.start - 1 for one, two in pairwise(chunks))
            wanted = collection.embedder.passages([searched_text(entry, one) for one in chunks])
            assert np.allclose([stored[one] for one in ids], wanted, atol=1e-5)
            found[entry.source] = whole
    for text in list(found.values())[::20]:
        assert search(collection, text.split()[0], keyword_weight=1.0, dense_weight=0.0)[0].page_content.startswith(text[:20])
        assert text[:20] in {one.page_content[:20] for one in search(collection, text[:400], keyword_weight=0.0, k=8)}
    collection.close()
    return found


def check_finished(name: str, folder: Path) -> None:
    """All that lies in the folder is there, and Chroma holds nothing else."""
    found = check(name, folder)
    assert sorted(found) == sorted(map(str, folder.iterdir()))
    collection = Collection.open(name)
    with collection.look() as (index, vectors):
        assert sorted(index.chunk_ids()) == sorted(vectors.ids())
        assert not index.writing
    assert sorted(path.name for path in collection.folder.iterdir() if path.is_dir()) == [str(collection.description.generation)]
    assert not list(collection.folder.glob("*/chroma-before"))
    collection.close()


def prepared(number: int, start: int = 0, dimension: int = 32, seed: int = 0) -> list[Prepared]:
    """Documents of one short chunk each, with random vectors."""
    vectors = np.random.default_rng((seed, start)).normal(size=(number, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for one in range(start, start + number):
        text = f"글 {seed}-{one}"
        entry = Entry(f"{seed}x{one}", f"/글/{seed}-{one}", "글", "text", "", 0, 0.0, float(one), 1, len(text))
        found.append(Prepared(entry, [Chunk(text, 0, 0, len(text))], vectors[one - start : one - start + 1], [text.split()]))
    return found


def put(collection: Collection, documents: Iterable[Prepared], at_once: int = 250) -> None:
    documents = list(documents)
    with collection.writer() as writer:
        for begin in range(0, len(documents), at_once):
            writer.put(documents[begin : begin + at_once])


def watching(name: str, end: Path, removed: Path, added: Path, told: Path) -> None:
    """Searches until the file `end` is there. What `removed` names must not be found, what `added` names must be: both are lines
    of sources and texts that the writer had finished with before the search began."""
    collection, searches = Collection.open(name), 0
    while not end.exists() or not searches:
        gone, there = _lines(removed), _lines(added)
        question = there[-1].split("\t")[1] if there else "아침 산책"
        found = {one.metadata["source"] for one in search(collection, question, k=50, budget=10**6)}
        assert not found & {line.split("\t")[0] for line in gone}
        if there and there[-1] in _lines(added) and there[-1] not in _lines(removed):
            assert there[-1].split("\t")[0] in found
        searches += 1
        told.write_text(str(searches))
    collection.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def opening_often(name: str, times: int) -> None:
    """What is open and held does not grow; the memory by less than 20 MB."""
    seen = []
    for _ in range(times):
        collection = Collection.open(name)
        assert search(collection, "아침 산책")
        collection.close()
        files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
        seen.append((files, threads, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()))
    early, late = seen[times // 4 : times // 2], seen[-times // 4 :]
    for kind, slack in enumerate((0, 0, 20e6)):
        assert min(one[kind] for one in late) <= max(one[kind] for one in early) + slack, (early, late)


def putting(name: str, number: int, die: str) -> None:
    _die_at(die)
    put(Collection.open(name), prepared(number, seed=1), number)
