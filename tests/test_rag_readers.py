"""Several processes at one collection: two writers, readers beside a writer."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kosent.errors import DataError
from kosent.rag.adding import add
from kosent.rag.collection import Collection
from kosent.rag.rebuilding import rebuild
from rag_helpers import (
    adding,
    check,
    check_finished,
    holding,
    opening_often,
    prepared,
    put,
    quick_home,
    run,
    search,
    start,
    wait_for,
    watching,
    write_documents,
)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with quick_home(monkeypatch) as folder:
        yield folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "글", 30)


# --- two writers


def test_a_second_writer_is_told_who_writes(documents: Path, home: Path, tmp_path: Path) -> None:
    run(adding, home, "일기", documents)
    process = start(holding, home, "일기", tmp_path / "begun", tmp_path / "end")
    wait_for(tmp_path / "begun")
    collection = Collection.open("일기")
    for change in (lambda: add(collection, [str(documents)]), collection.delete, lambda: rebuild(collection)):
        with pytest.raises(DataError, match=f"'일기' is being changed by another kosent .process {process.pid}.") as caught:
            change()
        assert "type this again" in str(caught.value.hint)
    assert len(check("일기", documents)) == 30
    (tmp_path / "end").touch()
    process.join()
    write_documents(documents, 10, seed=1)
    assert len(add(collection, [str(documents)]).changed) == 10
    collection.close()
    check_finished("일기", documents)


def test_a_killed_writer_stops_nobody(documents: Path, home: Path, tmp_path: Path) -> None:
    run(adding, home, "일기", documents)
    process = start(holding, home, "일기", tmp_path / "begun", tmp_path / "end")
    wait_for(tmp_path / "begun")
    process.kill()
    process.join()
    run(adding, home, "일기", documents)
    check_finished("일기", documents)


def test_two_that_begin_at_once(documents: Path, home: Path) -> None:
    Collection.create("일기")
    processes = [start(adding, home, "일기", documents) for _ in range(3)]
    for process in processes:
        process.join()
    assert 0 in [process.exitcode for process in processes]
    assert all(not process.exitcode or "is being changed by" in (home / "trouble.txt").read_text() for process in processes)
    check_finished("일기", documents)


def test_in_one_process_too_only_one_writes(documents: Path, home: Path) -> None:
    one, other = Collection.create("일기"), Collection.open("일기")
    with one.writer(), pytest.raises(DataError, match=f"process {os.getpid()}"), other.writer():
        pass
    add(other, [str(documents)])
    with one.look() as (index, vectors):
        assert index.counts()[0] == 30 and len(vectors.ids()) == index.counts()[1]
    assert "낱말0-7" in search(one, "낱말0-7")[0].page_content
    one.close()
    other.close()


# --- readers beside a writer


def test_a_reader_sees_each_change_and_never_what_was_removed(tmp_path: Path, home: Path, documents: Path) -> None:
    """The writer says what it has finished with; a reader that begins to search after that must see it so."""
    paths = [tmp_path / name for name in ("end", "removed", "added", "told")]
    end, removed, added, told = paths
    removed.touch()
    added.touch()
    collection = Collection.create("일기")
    add(collection, [str(documents)])
    process = start(watching, home, "일기", *paths)
    wait_for(told)
    gone, there = list[str](), list[str]()
    for number in range(12):
        new = documents / f"새 글 {number}.txt"
        new.write_text(f"새말{number} 오늘 처음 적는 글이다.", encoding="utf-8")
        add(collection, [str(documents)])
        there.append(f"{new}\t새말{number}")
        added.write_text("\n".join(there), encoding="utf-8")
        if number % 3 == 2:
            if number % 2:
                collection = rebuild(collection).collection
            victim = there[-2]
            Path(victim.split("\t")[0]).unlink()
            add(collection, [str(documents)], sync=True)
            gone.append(victim)
            removed.write_text("\n".join(gone), encoding="utf-8")
    end.touch()
    process.join()
    assert process.exitcode == 0, (home / "trouble.txt").read_text(encoding="utf-8")
    assert int(told.read_text()) >= 3
    collection.close()
    check_finished("일기", documents)


def test_a_reader_changes_none_of_the_files_that_a_writer_has_open(documents: Path, home: Path) -> None:
    """Chroma's vectors and the keyword index stay as they are while others look, also while the writer is at work."""
    collection = Collection.create("일기")
    put(collection, prepared(1500))
    files = [*collection.chroma_folder.glob("*/*"), collection.chroma_folder.parent / "index.sqlite3"]
    reader = (
        "import pytest, rag_helpers; from kosent.rag.collection import Collection; rag_helpers.be_quick(pytest.MonkeyPatch()); "
        "print(len(rag_helpers.search(Collection.open('일기'), '글')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with collection.writer() as writer:
        writer.put(prepared(300, 1500))
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) for path in files}
        kept = collection.chroma_folder.with_name("chroma-before")
        assert len(files) == 6 and (kept / "kept.json").exists()
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", reader], env=environment, capture_output=True, text=True, check=True)
            assert done.stdout.strip() == "4"
        assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) for path in files}
        assert (kept / "kept.json").exists()
        writer.put(prepared(900, 1800))
    with collection.look() as (index, vectors):
        assert len(vectors.ids()) == len(index.chunk_ids()) == 2700
        assert vectors.nearest(prepared(900, 1800)[700].vectors[0], 1)[0][0] == "0x2500:0"
    collection.close()


def test_what_another_process_wrote_is_there_in_all_that_are_open(documents: Path, home: Path) -> None:
    """Chroma keeps one view for all that a process has open under one path."""
    run(adding, home, "일기", documents)
    readers = [Collection.open("일기") for _ in range(3)]
    for number in range(4):
        text = f"새말{number} 보일러 {number}"
        (documents / f"{number}.txt").write_text(text, encoding="utf-8")
        run(adding, home, "일기", documents)
        for reader in readers:
            found = search(reader, text, keyword_weight=0.0)
            assert found[0].page_content == text
    for reader in readers:
        reader.close()


def test_one_that_is_open_lives_on_when_it_is_removed_and_made_again(documents: Path, home: Path) -> None:
    run(adding, home, "일기", documents)
    reader = Collection.open("일기")
    assert search(reader, "낱말0-3")
    Collection.open("일기").delete()
    with pytest.raises(DataError, match="There is no collection '일기'"):
        search(reader, "낱말0-3")
    with pytest.raises(DataError, match="There is no collection '일기'"):
        add(reader, [str(documents)])
    write_documents(documents, 30, seed=5)
    run(adding, home, "일기", documents)
    assert "낱말5-3" in search(reader, "낱말5-3")[0].page_content
    reader.close()


def test_opened_again_and_again_it_takes_no_more_memory_and_files(documents: Path, home: Path) -> None:
    run(adding, home, "일기", documents)
    run(opening_often, home, "일기", 120)


def test_nobody_else_can_read_it(documents: Path, home: Path) -> None:
    before = os.umask(0o022)
    try:
        run(adding, home, "일기", documents)
        Collection.create("다른 것").close()
    finally:
        os.umask(before)
    for folder in [home / "rag", *(home / "rag").iterdir()]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in home.glob("rag/*/*"):
        assert stat.S_IMODE(path.stat().st_mode) in (0o700, 0o600, 0o644)
    (index,) = home.glob("rag/*/1/index.sqlite3")
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
