"""Collections in a real Chroma server, which two machines share: each has a KOSENT_HOME of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kosent.errors import DataError, ServerDownError, UsageError
from kosent.rag import server_lock
from kosent.rag import vectors as vectors_module
from kosent.rag.adding import add
from kosent.rag.collection import Collection, folder_of
from kosent.rag.rebuilding import rebuild
from kosent.rag.vectors import Vectors
from rag_helpers import adding_on, be_quick, changing_often, holding, search, searching, start, wait_for, write_documents

COLLECTION = "kosent.rag.collection"


@contextmanager
def chroma(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    program = Path(sys.executable).with_name("chroma")
    command = [str(program), "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"ANONYMIZED_TELEMETRY": "False"}
    process = subprocess.Popen(command, env=environment, cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1).read()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with chroma(tmp_path_factory.mktemp("server") / "chroma", port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def name(server: str, request: pytest.FixtureRequest) -> str:
    """A collection of each test's own."""
    return str(request.node.name)[:60]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "글", 20)


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections that a test leaves open end with it."""
    opened, begin = list[Collection](), Collection.__init__

    def remember(self: Collection, *arguments: Any) -> None:
        begin(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(Collection, "__init__", remember)
    yield
    for collection in opened:
        collection.close()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    be_quick(monkeypatch)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        yield [Path(one), Path(other)]


At = Callable[[int], None]


@pytest.fixture
def at(machines: list[Path], monkeypatch: pytest.MonkeyPatch) -> At:
    """`at(1)`: now on the second machine."""

    def move(machine: int) -> None:
        monkeypatch.setenv("KOSENT_HOME", str(machines[machine]))

    move(0)
    return move


def sources(collection: Collection) -> list[str]:
    with collection.look() as (index, vectors):
        assert sorted(index.chunk_ids()) == sorted(vectors.ids())
        return [entry.source for entry in index.documents()]


def test_what_one_machine_adds_the_other_finds(name: str, server: str, documents: Path, at: At) -> None:
    mine = Collection.create(name, server=server)
    add(mine, [str(documents)])
    at(1)
    with pytest.raises(DataError, match="There is no collection"):
        Collection.open(name)
    theirs = Collection.open(name, server=server)
    found = search(theirs, "낱말0-3")
    assert found[0].page_content.startswith("낱말0-3") and {"cosine", "keyword"} <= set(found[0].metadata)
    assert sources(theirs) == sorted(map(str, documents.iterdir()))
    other = write_documents(documents.with_name("저쪽 글"), 5, seed=1)
    add(theirs, [str(other)])
    at(0)
    assert search(mine, "낱말1-4")[0].metadata["source"] == str(other / "004 글.txt")
    assert len(sources(mine)) == 25
    (documents / "003 글.txt").write_text("낱말0-3 이제는 다른 이야기이다.", encoding="utf-8")
    (documents / "004 글.txt").unlink()
    summary = add(mine, [str(documents)], sync=True)
    assert len(summary.changed) == len(summary.removed) == 1 and len(summary.unchanged) == 18
    at(1)
    assert search(theirs, "낱말0-3")[0].page_content == "낱말0-3 이제는 다른 이야기이다."
    assert not [one for one in search(theirs, "낱말0-4", k=20) if one.metadata["source"].endswith("004 글.txt")]
    assert len(sources(theirs)) == 24
    assert Collection.open(name).description.server == server


def test_a_collection_that_is_there_is_taken_as_it_is(name: str, server: str, documents: Path, at: At) -> None:
    add(Collection.create(name, server=server), [str(documents)])
    with pytest.raises(UsageError, match="already"):
        Collection.create(name, server=server)
    at(1)
    assert len(sources(Collection.create(name, server=server))) == 20
    (folder_of(name) / "collection.json").unlink()
    with pytest.raises(DataError, match=r"another embedder or splitter in Chroma \(use\)"):
        Collection.create(name, server=server, embedder_name="e5")


def test_one_machine_writes_at_a_time(
    name: str, server: str, documents: Path, machines: list[Path], tmp_path: Path, at: At
) -> None:
    mine = Collection.create(name, server=server)
    add(mine, [str(documents)])
    at(1)
    theirs = Collection.open(name, server=server)
    process = start(holding, machines[0], name, tmp_path / "begun", tmp_path / "end")
    wait_for(tmp_path / "begun")
    for change in (lambda: add(theirs, [str(documents)]), theirs.delete):
        with pytest.raises(DataError, match=f"is being changed on {socket.gethostname()}, process {process.pid}") as caught:
            change()
        assert "wait until it has ended" in str(caught.value.hint)
    assert search(theirs, "낱말0-3")
    (tmp_path / "end").touch()
    process.join()
    assert len(add(theirs, [str(documents)]).unchanged) == 20


def test_the_lock_of_a_killed_writer_runs_out(
    name: str, server: str, documents: Path, machines: list[Path], tmp_path: Path, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_lock, "SETTLING", 0.1)
    add(Collection.create(name, server=server), [str(documents)])
    process = start(holding, machines[0], name, tmp_path / "begun", tmp_path / "end", 3.0)
    wait_for(tmp_path / "begun")
    process.kill()
    process.join()
    at(1)
    theirs = Collection.open(name, server=server)
    with pytest.raises(DataError, match="is being changed on"):
        add(theirs, [str(documents)])
    monkeypatch.setattr(Vectors, "now", lambda self: time.time() + 4)
    assert len(add(theirs, [str(documents)]).unchanged) == 20


def test_a_writer_that_works_long_keeps_its_lock(name: str, server: str, machines: list[Path], tmp_path: Path, at: At) -> None:
    Collection.create(name, server=server)
    process = start(holding, machines[0], name, tmp_path / "begun", tmp_path / "end", 1.0)
    wait_for(tmp_path / "begun")
    time.sleep(2.5)
    at(1)
    with pytest.raises(DataError, match="is being changed on"), Collection.open(name, server=server).writer():
        pass
    (tmp_path / "end").touch()
    process.join()
    with Collection.open(name, server=server).writer():
        pass


@pytest.mark.parametrize("continuing", [0, 1])
@pytest.mark.parametrize(
    "moment",
    [
        "Vectors.put:after:2",
        "Writer._commit:before:2",
        "Vectors.note:after:2",
        "Vectors.delete:before:1",
        "Vectors.delete:after:1",
    ],
)
def test_killed_while_replacing_either_machine_goes_on(
    moment: str, continuing: int, server: str, documents: Path, machines: list[Path], at: At, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    name = f"{moment} {continuing}".replace(":", " ")
    for module_seconds in ("SECONDS", "SETTLING"):
        monkeypatch.setattr(server_lock, module_seconds, 0.1)
    add(Collection.create(name, server=server), [str(documents)])
    at(1)
    theirs = Collection.open(name, server=server)
    before = {source: Path(source).read_text(encoding="utf-8") for source in sources(theirs)}
    write_documents(documents, 24, seed=1)
    process = start(adding_on, machines[0], name, documents, f"{COLLECTION}:{moment}", 0.1)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    now = {str(path): path.read_text(encoding="utf-8") for path in documents.iterdir()}
    for machine in (1, 0):
        at(machine)
        collection = Collection.open(name)
        with collection.look() as (index, vectors):
            assert before.keys() <= {entry.source for entry in index.documents()}
            for entry in index.documents():
                chunks = collection.chunks_of(entry, vectors)
                texts = (before.get(entry.source, ""), now[entry.source])
                assert any(all(chunk.text == text[chunk.start : chunk.end] for chunk in chunks) for text in texts)
        collection.close()
    time.sleep(0.2)
    at(continuing)
    collection = Collection.open(name)
    add(collection, [str(documents)])
    assert sources(collection) == sorted(now)
    at(1 - continuing)
    other = Collection.open(name)
    assert sources(other) == sorted(now)
    assert search(other, "낱말1-23")[0].page_content.startswith("낱말1-23")


def test_a_machine_that_searches_while_another_changes(
    name: str, server: str, machines: list[Path], at: At, tmp_path: Path
) -> None:
    Collection.create(name, server=server)
    folder = tmp_path / "빈 폴더"
    folder.mkdir()
    process = start(changing_often, machines[0], name, folder, 8)
    at(1)
    theirs, searches = Collection.open(name, server=server), 0
    while process.is_alive():
        for found in search(theirs, "아침 산책 우산", k=30, budget=10**6):
            assert found.page_content in Path(found.metadata["source"] + ".all").read_text(encoding="utf-8")
        searches += 1
    process.join()
    assert process.exitcode == 0, (machines[0] / "trouble.txt").read_text(encoding="utf-8")
    assert searches > 3 and sources(theirs)


def test_two_processes_of_one_machine_share_its_index(
    name: str, server: str, documents: Path, machines: list[Path], at: At
) -> None:
    add(Collection.create(name, server=server), [str(documents)])
    at(1)
    Collection.open(name, server=server)
    processes = [start(searching, machines[1], name) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0, (machines[1] / "trouble.txt").read_text(encoding="utf-8")


def test_removed_on_one_machine_it_is_gone_on_the_other(name: str, server: str, documents: Path, at: At) -> None:
    mine = Collection.create(name, server=server)
    add(mine, [str(documents)])
    at(1)
    theirs = Collection.open(name, server=server)
    assert search(theirs, "낱말0-3")
    at(0)
    mine.delete()
    assert Collection.names() == []
    at(1)
    with pytest.raises(DataError, match="holds no such collection"):
        search(theirs, "낱말0-3")
    with pytest.raises(DataError, match="holds no such collection"):
        Collection.open(name).writer().__enter__()
    theirs.delete()
    assert Collection.names() == [] and not folder_of(name).exists()
    with pytest.raises(DataError, match="holds no such collection"):
        Collection.open(name, server=server)


def test_a_collection_on_a_server_is_not_rebuilt(name: str, server: str, at: At) -> None:
    collection = Collection.create(name, server=server)
    with pytest.raises(DataError, match="is on a server") as caught:
        rebuild(collection)
    assert f"--chroma {server}" in str(caught.value.hint)


def test_a_server_that_is_down(tmp_path: Path, documents: Path, at: At) -> None:
    port = free_port()
    server = f"http://127.0.0.1:{port}"
    with pytest.raises(ServerDownError) as caught:
        Collection.create("일기", server=server)
    assert f"at {server} does not answer" in str(caught.value) and "chroma run" in str(caught.value.hint)
    assert Collection.names() == []
    with chroma(tmp_path / "chroma", port):
        collection = Collection.create("일기", server=server)
        add(collection, [str(documents)])
    for attempt in (
        lambda: search(collection, "낱말0-3"),
        lambda: add(collection, [str(documents)]),
        lambda: Collection.open("없는 것", server=server),
        lambda: search(Collection.open("일기"), "낱말0-3"),
    ):
        with pytest.raises(ServerDownError, match="does not answer"):
            attempt()
    with chroma(tmp_path / "chroma", port):
        assert search(collection, "낱말0-3")[0].page_content.startswith("낱말0-3")
        assert len(add(collection, [str(documents)]).unchanged) == 20
    collection.close()
    with pytest.raises(DataError, match="is kept in the Chroma server") as other:
        Collection.open("일기", server="http://127.0.0.1:1")
    assert other.value.hint == "kosent rag show 일기"


def test_a_server_that_hangs(tmp_path: Path, documents: Path, at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with chroma(tmp_path / "chroma", port) as process:
        collection = Collection.create("일기", server=f"http://127.0.0.1:{port}")
        add(collection, [str(documents)])
        collection.close()
        monkeypatch.setattr(vectors_module, "ANSWER", 1.0)
        assert search(collection, "낱말0-3")
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ServerDownError, match=r"does not answer as it should: .*timed out"):
                search(collection, "낱말0-3")
        finally:
            process.send_signal(signal.SIGCONT)
        assert search(collection, "낱말0-3")[0].page_content.startswith("낱말0-3")
        collection.close()
