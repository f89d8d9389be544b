"""Damaged, lost, foreign and odd files: a clear word each time, and what is left can be used."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kosent.cli import main
from kosent.errors import DataError, UsageError
from kosent.files import read_json, write_json
from kosent.rag import adding as adding_module
from kosent.rag import collection as collection_module
from kosent.rag.adding import add
from kosent.rag.collection import Collection
from kosent.rag.rebuilding import rebuild
from rag_helpers import check, check_finished, prepared, put, quick_home, search, write_documents


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with quick_home(monkeypatch) as folder:
        yield folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "글", 30)


@pytest.fixture
def diary(documents: Path, home: Path) -> Iterator[Collection]:
    collection = Collection.create("일기")
    add(collection, [str(documents)])
    collection.close()
    yield collection
    collection.close()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    data, chance = bytearray(path.read_bytes()), random.Random(1)
    for place in range(len(data) // 4, len(data)):
        data[place] = chance.randrange(256)
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_text("이것은 데이터베이스가 아니다. " * 200, encoding="utf-8")


DAMAGE: list[Callable[[Path], None]] = [Path.unlink, cut, empty, scribble, foreign]


def names(function: Callable[[Path], None]) -> str:
    return function.__name__


# --- the keyword index


@pytest.mark.parametrize("damage", DAMAGE, ids=names)
def test_a_damaged_index_is_made_anew_from_chroma(damage: Callable[[Path], None], diary: Collection, documents: Path) -> None:
    index = diary.chroma_folder.with_name("index.sqlite3")
    damage(index)
    said = []
    for _ in range(2):
        try:
            assert search(diary, "낱말0-7", dense_weight=0.0)[0].page_content.startswith("낱말0-7")
            break
        except DataError as error:
            said.append((str(error), error.hint))
    assert all("is damaged" in message and "type this again" in str(hint) for message, hint in said) and len(said) < 2
    diary.close()
    check_finished("일기", documents)
    if damage not in (Path.unlink, empty):
        assert len(list(index.parent.glob("index.sqlite3.damaged-*"))) == 1


def test_a_document_of_which_chroma_holds_a_part_is_no_document(diary: Collection, documents: Path) -> None:
    with diary.look() as (index, vectors):
        (entry,) = [one for one in index.documents() if one.chunks > 2][:1]
        vectors.delete([f"{entry.key}:1"])
    diary.close()
    diary.chroma_folder.with_name("index.sqlite3").unlink()
    with diary.look() as (index, _):
        assert index.counts()[0] == 29 and entry.source not in {one.source for one in index.documents()}
    assert add(diary, [str(documents)]).added == [entry.source]
    check("일기", documents)


# --- Chroma's files


@pytest.mark.parametrize("damage", DAMAGE, ids=names)
@pytest.mark.parametrize("there", [True, False])
def test_without_chromas_database_what_is_still_there_is_read_again(
    there: bool, damage: Callable[[Path], None], diary: Collection, documents: Path
) -> None:
    index = diary.chroma_folder.with_name("index.sqlite3").read_bytes()
    damage(diary.chroma_folder / "chroma.sqlite3")
    with pytest.raises(DataError, match=r"Chroma (cannot use|has lost)") as caught, diary.look():
        pass
    assert caught.value.hint == "kosent rag rebuild 일기"
    assert diary.chroma_folder.with_name("index.sqlite3").read_bytes() == index
    lost = [documents / "003 글.txt", documents / "004 글.txt"] if there else sorted(documents.iterdir())
    for path in lost:
        path.unlink()
    made = rebuild(diary)
    assert made.read == 30 - len(lost) and made.kept + len(made.lost) == len(lost)
    assert not made.kept or damage in (cut, scribble)
    made.collection.close()
    if not made.kept:
        check_finished("일기", documents)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 1,500 chunks: Chroma has written its vectors once."""
    home = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch, quick_home(patch):
        patch.setenv("KOSENT_HOME", str(home))
        collection = Collection.create("일기")
        put(collection, prepared(1500))
        collection.close()
    return home


HNSW = ["header.bin", "data_level0.bin", "link_lists.bin", "index_metadata.pickle"]


@pytest.mark.parametrize("damage", [Path.unlink, cut, empty, scribble], ids=names)
@pytest.mark.parametrize("name", [*HNSW, "length.bin", ""])
def test_damaged_vectors_are_made_again_from_the_texts(
    name: str, damage: Callable[[Path], None], large: Path, home: Path
) -> None:
    """Loaded as they are, some of these would end the process. hnswlib does not need length.bin."""
    shutil.copytree(large, home, dirs_exist_ok=True)
    collection = Collection.open("일기")
    (segment,) = [path for path in collection.chroma_folder.iterdir() if path.is_dir()]
    if name:
        damage(segment / name)
    else:
        shutil.rmtree(segment)
    if name == "length.bin" and damage is not Path.unlink:
        with collection.look() as (_, vectors):
            assert vectors.nearest(prepared(1)[0].vectors[0], 1)[0][0] == "0x0:0"
        return
    with pytest.raises(DataError) as caught, collection.look():
        pass
    assert caught.value.hint == "kosent rag rebuild 일기"
    with pytest.raises(DataError), collection.writer():
        pass
    if damage is not cut:
        return
    made = rebuild(collection)
    assert (made.read, made.kept, made.lost) == (0, 1500, [])
    assert search(made.collection, "글 0-1200", dense_weight=0.0)[0].metadata["source"] == "/글/0-1200"
    assert search(made.collection, "글 0-1200", keyword_weight=0.0)
    made.collection.close()
    assert [path.name for path in collection.folder.iterdir() if path.is_dir()] == ["2"]


def test_when_index_and_vectors_are_lost_the_texts_suffice(large: Path, home: Path) -> None:
    shutil.copytree(large, home, dirs_exist_ok=True)
    collection = Collection.open("일기")
    collection.chroma_folder.with_name("index.sqlite3").unlink()
    (header,) = collection.chroma_folder.glob("*/header.bin")
    empty(header)
    with pytest.raises(DataError, match="is damaged"), collection.look():
        pass
    made = rebuild(collection)
    assert (made.read, made.kept, made.lost) == (0, 1500, [])
    made.collection.close()


def test_when_nothing_is_left_it_is_said(diary: Collection) -> None:
    diary.chroma_folder.with_name("index.sqlite3").unlink()
    foreign(diary.chroma_folder / "chroma.sqlite3")
    with pytest.raises(DataError, match="Nothing of '일기' can be read any more: Chroma cannot use") as caught:
        rebuild(diary)
    assert "kosent rag remove 일기" in str(caught.value.hint)
    diary.delete()
    assert Collection.names() == []


# --- other embedders, splitters, formats


def test_another_embedder_is_refused_until_it_is_rebuilt(diary: Collection, documents: Path) -> None:
    with pytest.raises(DataError, match="made with the embedder use, not e5") as caught:
        Collection.open("일기", embedder_name="e5")
    assert caught.value.hint == "kosent rag rebuild 일기 --embedder e5"
    reader = Collection.open("일기")
    assert search(reader, "아침 산책")
    rebuild(diary, "e5").collection.close()
    with pytest.raises(DataError, match="rebuilt with another embedder"):
        search(reader, "아침 산책")
    reader.close()
    assert Collection.open("일기", embedder_name="e5").embedder.dimension == 48
    check_finished("일기", documents)


def test_an_embedder_of_the_same_name_that_has_changed(diary: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    made = collection_module.embedder
    monkeypatch.setattr(collection_module, "embedder", lambda name: made("e5"))
    with pytest.raises(DataError, match="e5 has changed") as caught:
        search(Collection.open("일기"), "아침 산책")
    assert caught.value.hint == "kosent rag rebuild 일기"


def test_another_splitter_and_a_newer_format_are_refused(diary: Collection, documents: Path) -> None:
    described = diary.folder / "collection.json"
    kept = read_json(described)
    kept["fingerprint"]["splitter"] = "structure-0:500:50"
    with diary.look() as (_, vectors):
        vectors.note(kosent_fingerprint=json.dumps(kept["fingerprint"]))
    diary.close()
    write_json(described, kept)
    with pytest.raises(DataError, match=r"chunks as structure-0.*structure-1") as caught:
        Collection.open("일기")
    assert caught.value.hint == "kosent rag rebuild 일기"
    rebuild(Collection.open("일기", old=True)).collection.close()
    check_finished("일기", documents)
    write_json(described, kept | {"format": 2})
    with pytest.raises(DataError, match="made by a newer KoSent") as caught:
        Collection.open("일기", old=True)
    assert "pip install -U" in str(caught.value.hint)
    described.write_text(json.dumps(kept)[:80], encoding="utf-8")
    with pytest.raises(DataError, match=r"collection\.json is damaged") as caught:
        Collection.open("일기")
    assert f"move {diary.folder}" in str(caught.value.hint)


# --- odd documents


def test_a_corrupted_file_among_good_ones(diary: Collection, documents: Path, tmp_path: Path) -> None:
    (documents / "상한 글.pdf").write_bytes(b"%PDF-1.7 " + os.urandom(2000))
    (documents / "빈 글.txt").touch()
    os.mkfifo(documents / "관.txt")
    (documents / "끝없이.txt").symlink_to(documents / "끝없이.txt")
    (documents / "어디.txt").symlink_to(tmp_path / "없는 글.txt")
    (documents / "좋은 글.txt").write_text("좋은 소식이 왔다.", encoding="utf-8")
    good = documents / "000 글.txt"
    before = good.read_text(encoding="utf-8")
    good.write_bytes(b"\0" * 3000)
    summary = add(diary, [str(documents)], sync=True)
    reasons = {Path(source).name: reason for source, (reason, _) in summary.skipped.items()}
    assert reasons == {
        "상한 글.pdf": "damaged", "빈 글.txt": "no_text", "관.txt": "unsafe", "끝없이.txt": "damaged", "어디.txt": "unsafe",
        "000 글.txt": "garbled",
    }  # fmt: skip
    assert all(source in said for source, (_, said) in summary.skipped.items())
    assert summary.added == [str(documents / "좋은 글.txt")] and len(summary.unchanged) == 29 and not summary.removed
    assert search(diary, before.split()[0])[0].page_content == before[:400].rstrip() or before.startswith(
        search(diary, before.split()[0])[0].page_content
    )


def test_a_file_that_may_not_be_read(documents: Path, home: Path) -> None:
    locked = documents / "잠긴 글.txt"
    locked.write_text("아무도 못 읽는 글.", encoding="utf-8")
    locked.chmod(0)
    program = (
        "import pytest, rag_helpers, sys; from kosent.rag.adding import add; from kosent.rag.collection import Collection; "
        "rag_helpers.be_quick(pytest.MonkeyPatch()); "
        "summary = add(Collection.create('일기'), sys.argv[1:]); print(len(summary.added), summary.skipped)"
    )

    def without_privileges() -> None:
        for capability in (1, 2):  # root's to read everything; PR_CAPBSET_DROP
            ctypes.CDLL(None).prctl(24, capability)

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", program, str(documents)]
    done = subprocess.run(command, env=environment, preexec_fn=without_privileges, capture_output=True, text=True, check=True)
    assert done.stdout == f"30 {{{str(locked)!r}: ('damaged', '{locked}: Permission denied')}}\n"


def test_a_folder_that_may_not_be_read_loses_nothing(diary: Collection, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = write_documents(documents / "안", 3, seed=3)
    add(diary, [str(documents)])
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path) == str(inner):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(os.path, "exists", lambda path: "안" not in Path(path).parts and os.path.lexists(path))
    summary = add(diary, [str(documents)], sync=True)
    assert not summary.removed and not summary.gone and len(summary.unchanged) == 30
    assert summary.skipped == {str(inner): ("damaged", f"{inner}: the folder cannot be read: Permission denied.")}
    with diary.look() as (index, _):
        assert index.counts()[0] == 33


def test_links_out_of_the_folder_are_left_where_they_lead(diary: Collection, documents: Path, tmp_path: Path) -> None:
    secret = tmp_path / "비밀.txt"
    secret.write_text("남이 보면 안 되는 글.", encoding="utf-8")
    (documents / "링크.txt").symlink_to(secret)
    (documents / "안으로.txt").symlink_to(documents / "000 글.txt")
    summary = add(diary, [str(documents)])
    assert summary.added == [str(documents / "안으로.txt")]
    assert {source: reason for source, (reason, _) in summary.skipped.items()} == {str(documents / "링크.txt"): "unsafe"}
    assert add(diary, [str(documents / "링크.txt")]).added == [str(documents / "링크.txt")], "named itself, it is meant"


def test_a_file_that_is_changed_while_it_is_read(diary: Collection, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = documents / "000 글.txt"
    path.write_text("첫 번째 글.", encoding="utf-8")
    load = adding_module.load

    def slowly(*arguments: object, **options: object) -> object:
        path.write_text("그사이 바뀐 두 번째 글.", encoding="utf-8")
        return load(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(adding_module, "load", slowly)
        summary = add(diary, [str(path)])
    assert "changed while it was read" in summary.skipped[str(path)][1] and not summary.changed
    assert add(diary, [str(path)]).changed == [str(path)]
    check_finished("일기", documents)


def test_a_folder_that_is_gone(diary: Collection, documents: Path) -> None:
    away = documents.with_name("다른 곳")
    documents.rename(away)
    with pytest.raises(UsageError, match="no such file or folder"):
        add(diary, [str(documents.with_name("없던 곳"))])
    summary = add(diary, [str(documents)])
    assert len(summary.gone) == 30 and not summary.removed
    assert "낱말0-5" in search(diary, "낱말0-5")[0].page_content
    away.rename(documents)
    assert len(add(diary, [str(documents)]).unchanged) == 30
    shutil.rmtree(documents)
    one = str(documents / "005 글.txt")
    assert add(diary, [one], sync=True).removed == [one]
    for what in ("is no longer there", "is empty"):
        with pytest.raises(DataError, match=f"{what}; --sync would remove all of its 29") as refused:
            add(diary, [str(documents)], sync=True)
        documents.mkdir(exist_ok=True)
    assert "낱말0-6" in search(diary, "낱말0-6")[0].page_content
    assert refused.value.hint is not None
    assert main([*shlex.split(refused.value.hint.partition("     ")[0])[1:], "--yes"]) == 0
    assert search(diary, "낱말0-6") == []


def test_a_folder_above_and_below(diary: Collection, documents: Path) -> None:
    """What was added with one folder is not gone when another one is added."""
    other = write_documents(documents.with_name("글 2"), 3, seed=2)
    assert not add(diary, [str(other)], sync=True).removed
    inner = write_documents(documents / "안", 3, seed=3)
    assert len(add(diary, [str(inner)], sync=True).added) == 3
    shutil.rmtree(inner)
    assert len(add(diary, [str(documents.parent)], sync=True).removed) == 3
    with diary.look() as (index, _):
        assert index.counts()[0] == 33


def test_two_names_of_one_file_are_two_documents_that_change_together(diary: Collection, documents: Path) -> None:
    first = documents / "000 글.txt"
    names = [documents / "굳은 고리.txt", documents / "무른 고리.txt"]
    os.link(first, names[0])
    names[1].symlink_to(first)
    assert sorted(add(diary, [str(documents), str(first)]).added) == sorted(map(str, names))
    first.write_text("새로 적은 글이다.", encoding="utf-8")
    assert sorted(add(diary, [str(documents)]).changed) == sorted(map(str, [first, *names]))
    names[0].unlink()
    assert add(diary, [str(documents)], sync=True).removed == [str(names[0])]
    check_finished("일기", documents)


def test_names_that_differ_in_composition_alone(diary: Collection, documents: Path) -> None:
    composed = documents / "가족.txt"
    taken_apart = documents / unicodedata.normalize("NFD", "가족.txt")
    taken_apart.write_text("풀어 쓴 이름의 글.", encoding="utf-8")
    assert add(diary, [str(documents)]).added == [str(composed)]
    assert add(diary, [str(taken_apart), str(documents)]).unchanged.count(str(composed)) == 1
    composed.write_text("모아 쓴 이름의 글.", encoding="utf-8")
    summary = add(diary, [str(documents)], sync=True)
    assert summary.changed == [str(composed)] and list(summary.skipped) == [str(taken_apart)] and not summary.removed
    assert search(diary, "이름의")[0].page_content == "모아 쓴 이름의 글."
    composed.unlink()
    assert add(diary, [str(documents)], sync=True).changed == [str(composed)]
    with diary.look() as (index, _):
        assert index.counts()[0] == 31


def test_a_filter_that_chroma_does_not_know(diary: Collection) -> None:
    with pytest.raises(UsageError, match="does not understand the filter"):
        search(diary, "아침", filter={"page": {"$near": 3}})
    assert search(diary, "아침 산책", filter={"kind": "text"})
