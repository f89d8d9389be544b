"""Collections that meet kill -9, a second writer, a full disk, damaged files: nothing is lost, nothing doubled, a clear word each
time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kosent.errors import DataError
from kosent.rag import hnsw_files
from kosent.rag.adding import add
from kosent.rag.collection import Collection
from kosent.rag.hnsw_files import HnswFiles
from kosent.rag.rebuilding import rebuild
from rag_helpers import (
    adding,
    adding_up_to,
    adding_without_room,
    be_quick,
    check,
    check_finished,
    prepared,
    put,
    putting,
    quick_home,
    rebuilding,
    run,
    search,
    start,
    write_documents,
)

COLLECTION = "kosent.rag.collection"
MOMENTS = [
    f"{COLLECTION}:Writer.put:before:1",
    f"{COLLECTION}:Vectors.put:after:1",
    f"{COLLECTION}:Vectors.put:after:5",
    f"{COLLECTION}:KeywordIndex.add:after:40",
    f"{COLLECTION}:KeywordIndex.note:after:4",
    f"{COLLECTION}:Writer._commit:after:3",
    f"{COLLECTION}:Vectors.delete:before:2",
    f"{COLLECTION}:Vectors.delete:after:2",
]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with quick_home(monkeypatch) as folder:
        yield folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "글", 200)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "글", 20)


def change(folder: Path, seed: int) -> None:
    """Every third document says something else, every fifth is gone, some are new."""
    later = write_documents(folder.with_name("후"), 210 + seed, seed=seed)
    for number, path in enumerate(sorted(later.iterdir())):
        if number % 3 == 0 or number >= 200:
            shutil.copy(path, folder)
        elif number % 5 == 0:
            (folder / path.name).unlink(missing_ok=True)
    shutil.rmtree(later)


def copy_of(folder: Path) -> Path:
    """A folder as it is now."""
    return Path(shutil.copytree(folder, folder.with_name(f"전 {time.time_ns()}")))


def killed_at(seconds: float, work: Callable[..., None], home: Path, *arguments: Any) -> bool:
    """Whether it was still at work then."""
    process = start(work, home, *arguments)
    process.join(seconds)
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


# --- kill -9


def test_killed_while_adding_at_twenty_moments(documents: Path, home: Path) -> None:
    run(adding, home, "처음", documents)
    began = time.monotonic()
    run(adding, home, "시간", documents)
    whole, chance, killed, half_done = time.monotonic() - began, random.Random(8), 0, 0
    for _ in range(20):
        killed += killed_at(chance.uniform(0, whole), adding, home, "일기", documents)
        if not Collection.is_here("일기"):
            continue
        found = check("일기", documents)
        half_done += 0 < len(found) < 200
        if len(found) == 200 or chance.random() < 0.2:
            run(adding, home, "일기", documents)
            check_finished("일기", documents)
            Collection.open("일기").delete()
    assert killed >= 10 and half_done >= 3
    run(adding, home, "일기", documents)
    check_finished("일기", documents)


@pytest.mark.parametrize("moment", MOMENTS[:6])
def test_killed_at_a_step_of_adding(moment: str, documents: Path, home: Path) -> None:
    process = start(adding, home, "일기", documents, False, moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check("일기", documents)
    run(adding, home, "일기", documents)
    check_finished("일기", documents)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_step_of_replacing_and_removing(moment: str, documents: Path, home: Path) -> None:
    run(adding, home, "일기", documents)
    before = copy_of(documents)
    change(documents, 1)
    process = start(adding, home, "일기", documents, True, moment)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(check("일기", documents, before)) >= 150
    run(adding, home, "일기", documents, True)
    check_finished("일기", documents)


def test_killed_while_replacing_and_removing_at_ten_moments(documents: Path, home: Path) -> None:
    run(adding, home, "일기", documents)
    chance, killed, before = random.Random(9), 0, list[Path]()
    for number in range(1, 11):
        before.append(copy_of(documents))
        change(documents, number)
        began = time.monotonic()
        run(adding, home, f"시간 {number}", documents)
        killed += killed_at(chance.uniform(0, time.monotonic() - began), adding, home, "일기", documents, True)
        check("일기", documents, *before)
    assert killed >= 5
    run(adding, home, "일기", documents, True)
    check_finished("일기", documents)


@pytest.mark.parametrize("gone", [False, True])
def test_killed_while_rebuilding(gone: bool, documents: Path, home: Path) -> None:
    run(adding, home, "일기", documents)
    before = copy_of(documents)
    if gone:
        shutil.rmtree(documents)
    for moment in ("Vectors.put:after:3", "Collection.replace_by:before:1", "write_json:after:1"):
        process = start(rebuilding, home, "일기", f"{COLLECTION}:{moment}")
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(check("일기", before)) == 200
    chance = random.Random(10)
    for _ in range(4):
        killed_at(chance.uniform(0, 0.8), rebuilding, home, "일기")
        assert len(check("일기", before)) == 200
    run(rebuilding, home, "일기")
    if gone:
        shutil.copytree(before, documents)
    check_finished("일기", documents)


def test_killed_with_the_real_embedder(few: Path, home: Path) -> None:
    command = [sys.executable, "-m", "kosent", "rag", "add", "일기", str(few)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(home.glob("rag/*/1/chroma/*/header.bin")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "It holds 20 documents" in done.stdout
    found = subprocess.run([*command[:4], "search", "일기", "낱말0-13"], capture_output=True, text=True, check=True)
    assert "낱말0-13" in found.stdout


# --- kill -9, or a full disk, while Chroma writes its vectors


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 3,000 chunks of 1,024 dimensions, so that Chroma's vectors are its largest file."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("large")
        patch.setenv("KOSENT_HOME", str(home))
        be_quick(patch)
        collection = Collection.create("일기")
        put(collection, prepared(3000, dimension=1024))
        collection.close()
    return home


def vectors_file(collection: Collection) -> Path:
    (found,) = collection.chroma_folder.glob("*/data_level0.bin")
    return found


@pytest.mark.parametrize("beyond", [5_000, 1_500_000, 4_230_000])
def test_killed_while_chroma_writes_its_vectors(beyond: int, large: Path, home: Path) -> None:
    shutil.copytree(large, home, dirs_exist_ok=True)
    collection = Collection.open("일기")
    limit = vectors_file(collection).stat().st_size + beyond
    process = start(adding_up_to, home, limit, True)
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    assert vectors_file(collection).stat().st_size == limit and HnswFiles(collection.chroma_folder).damage()
    documents = prepared(3000, dimension=1024) + [one for begin in range(3000, 4500, 250) for one in prepared(250, begin, 1024)]
    with collection.look() as (index, vectors):
        assert index.counts() == (3750, 3750)
        for one in documents[:3750:50]:
            assert vectors.nearest(one.vectors[0], 1)[0][0] == f"{one.entry.key}:0"
    put(collection, documents[3500:])
    with collection.look() as (index, vectors):
        assert sorted(vectors.ids()) == sorted(index.chunk_ids()) == sorted(f"{one.entry.key}:0" for one in documents)
        assert vectors.nearest(documents[-1].vectors[0], 1)[0][0] == f"{documents[-1].entry.key}:0"
    collection.close()


def test_killed_beside_a_process_that_has_it_open(home: Path) -> None:
    """What that one has in memory is older than the files, and it writes them next."""
    collection = Collection.create("일기")
    put(collection, prepared(1200))
    process = start(putting, home, "일기", 1500, f"{COLLECTION}:Vectors.put:after:1")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    put(collection, prepared(1300, 1200), 1300)
    collection.close()
    with collection.look() as (index, vectors):
        assert sorted(vectors.ids()) == sorted(index.chunk_ids()) and index.counts() == (2500, 2500)
        for one in [*prepared(1200), *prepared(1300, 1200)][::25]:
            assert vectors.nearest(one.vectors[0], 1)[0][0] == f"{one.entry.key}:0"
    assert HnswFiles(collection.chroma_folder).damage() == ""
    collection.close()


def test_vectors_that_the_disk_did_not_take_are_made_again_from_the_texts(large: Path, home: Path) -> None:
    """Chroma itself notices nothing."""
    shutil.copytree(large, home, dirs_exist_ok=True)
    collection = Collection.open("일기")
    process = start(adding_up_to, home, vectors_file(collection).stat().st_size + 1_500_000, False)
    process.join()
    said = (home / "trouble.txt").read_text(encoding="utf-8")
    assert process.exitcode == 1 and "DataError: The disk that holds" in said and "did not take all of the vectors" in said
    with pytest.raises(DataError, match=r"vector index in .* is damaged") as caught, collection.look():
        pass
    assert caught.value.hint == "kosent rag rebuild 일기"
    made = rebuild(collection)
    assert (made.read, made.kept, made.lost) == (0, 3750, [])
    assert search(made.collection, "글 0-3700")[0].metadata["source"] == "/글/0-3700"
    made.collection.close()


# --- a full disk


def test_without_room_nothing_is_begun(few: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = Collection.create("일기")
    add(collection, [str(few)])
    write_documents(few, 25, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(hnsw_files, "ROOM", 1 << 60)
        with pytest.raises(DataError, match=r"takes no more: .*No space left") as caught:
            add(collection, [str(few)])
    assert "df -h" in str(caught.value.hint)
    assert len(add(collection, [str(few)]).changed) == 20
    collection.close()
    check_finished("일기", few)


def test_what_was_there_before_the_disk_was_full_stays(few: Path, home: Path) -> None:
    run(adding, home, "일기", few)
    before = copy_of(few)
    write_documents(few, 200, seed=1)
    process = start(adding_without_room, home, "일기", few)
    process.join()
    said = (home / "trouble.txt").read_text(encoding="utf-8")
    assert process.exitcode == 1 and "DataError: The disk that holds" in said and "takes no more" in said, said
    assert len(check("일기", few, before)) >= 20
    run(adding, home, "일기", few)
    check_finished("일기", few)


def test_an_index_that_cannot_grow(few: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite is told that no page more is to be had."""
    collection = Collection.create("일기")
    add(collection, [str(few)])
    write_documents(few, 200, seed=1)
    with collection.look() as (index, _):
        (pages,) = index._database.execute("PRAGMA page_count").fetchone()
        index._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DataError, match="cannot be used: database or disk is full") as caught:
        add(collection, [str(few)])
    assert "df -h" in str(caught.value.hint)
    collection.close()
    run(adding, home, "일기", few)
    check_finished("일기", few)


def test_on_a_real_disk_that_is_full(tmp_path: Path, home: Path, documents: Path) -> None:
    """On a file system of its own, in a namespace of its own."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pytest, rag_helpers; "
        "from kosent.rag import hnsw_files; hnsw_files.ROOM = 0; rag_helpers.be_quick(pytest.MonkeyPatch()); "
        f"rag_helpers.adding('일기', {str(documents)!r})"
    )
    script = f'mount -t tmpfs -o size=1200k tmpfs "{disk}" && "$@"; code=$?; cp -a "{disk}/." "{kept}"; exit $code'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", program]
    if os.getuid() != 0:
        command[1:2] = ["-r", "-m"]
    environment = os.environ | {"KOSENT_HOME": str(disk)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "kosent.errors.DataError: " in done.stderr, done.stderr
    assert "takes no more" in done.stderr or "disk is full" in done.stderr, done.stderr
    shutil.copytree(kept, home, dirs_exist_ok=True)
    assert 0 < len(check("일기", documents)) < 200
    run(adding, home, "일기", documents)
    check_finished("일기", documents)
