"""Conversations out and in: what was said stays what was said, nothing is overwritten, nothing comes in by half."""

from __future__ import annotations

import json
import os
import re
import resource
import sqlite3
import stat
import unicodedata
from datetime import datetime
from pathlib import Path

import pytest

from helpers import ROOT
from kosent.cli import main
from kosent.conversations import COMPLETE, FAILED, STOPPED, WRITING, ConversationStore, StoredMessage, importing
from kosent.conversations.exchange import Form, export_conversations, export_name, to_jsonl_line, to_markdown
from kosent.conversations.importing import Imported, import_conversations
from kosent.conversations.store import Conversation
from kosent.errors import DataError, KosentError, UsageError
from kosent.files import read_jsonl

Said = list[tuple[str, str]]
TALK: Said = [
    ("user", "오늘 회사에서\n\n혼났어 😢"),
    ("assistant", "많이 속상하셨겠어요.\n```python\n\tprint('안녕')\n```"),
    ("user", "# 응, 그리고 \"집\"에서도 \\n"),
    ("assistant", "  집에서도요?\n  무슨 일이 있었나요?  "),
]  # fmt: skip
PERSONAL = "내 번호 010-1234-5678, 메일 hong@naver.com, 주민번호 900101-1234567"
MASKED = "내 번호 <전화번호>, 메일 <이메일>, 주민번호 <주민등록번호>"


def filled(store: ConversationStore, said: Said = TALK, **settings: str) -> int:
    conversation = store.new("ollama:kosent", settings)
    for role, text in said:
        store.add(conversation, role, text)
    return conversation


def said_in(store: ConversationStore, conversation: int) -> Said:
    return [(message.role, message.content) for message in store.messages(conversation)]


def message(role: str, content: str, status: str = COMPLETE, **facts: object) -> StoredMessage:
    return StoredMessage(1, role, content, status, facts=facts)


def contents(line: str) -> list[str]:
    return [row["content"] for row in json.loads(line)["messages"]]


def openai(*said: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}, ensure_ascii=False)


def markdown(*messages: StoredMessage, title: str = "퇴근길", model: str = "ollama:kosent", **options: object) -> str:
    return to_markdown(Conversation(1, title, model, 0.0, 0.0), messages, **options)  # type: ignore[arg-type]


# --- Markdown


def test_markdown_says_who_spoke_when_and_with_which_model() -> None:
    text = markdown(message("user", "안녕"), message("assistant", "안녕하세요.\n\n반가워요."))
    day = datetime.fromtimestamp(0).strftime("%Y-%m-%d %H:%M")
    assert text == (
        f"# 퇴근길\n\n- 날짜: {day}\n- 모델: ollama:kosent\n\n## 나\n\n> 안녕\n\n## KoSent\n\n> 안녕하세요.\n>\n> 반가워요.\n"
    )
    english = markdown(message("user", "hi"), title="", model="", lang="en")
    assert english == f"# New conversation\n\n- Date: {day}\n\n## You\n\n> hi\n"


@pytest.mark.parametrize(
    ("status", "facts", "korean", "english"),
    [
        (STOPPED, {}, "여기서 멈췄어요.", "Stopped here."),
        (FAILED, {}, "답을 끝까지 받지 못했어요.", "The reply could not be finished."),
        (STOPPED, {"cut_off": True}, "프로그램이 꺼져서 여기까지만 남았어요.", "The program ended here; this is what was saved."),
        (WRITING, {}, "프로그램이 꺼져서 여기까지만 남았어요.", "The program ended here; this is what was saved."),
        (COMPLETE, {"finish_reason": "length"}, "길어서 여기까지만 썼어요.", "Cut here because it is long."),
    ],
)
def test_markdown_notes_what_did_not_end_by_itself(status: str, facts: dict[str, object], korean: str, english: str) -> None:
    reply = message("assistant", "그랬", status, **facts)
    assert markdown(reply).endswith(f"> 그랬\n\n*{korean}*\n")
    assert markdown(reply, lang="en").endswith(f"> 그랬\n\n*{english}*\n")
    assert markdown(message("assistant", "", FAILED)).endswith("## KoSent\n\n*답을 끝까지 받지 못했어요.*\n")


def test_the_structure_of_markdown_is_its_own_whatever_is_said() -> None:
    hostile = "# 가짜 제목\n## KoSent\n---\n===\n```\n열린 코드\r\n</details>\n<!--\n\x1b[2J\x9b31m끝\r다음"
    text = markdown(message("user", hostile), message("assistant", hostile), title="제목\n# 둘째")
    outside = [line for line in text.split("\n") if line and not line.startswith(">")]
    assert [line for line in outside if not line.startswith("- ")] == ["# 제목 # 둘째", "## 나", "## KoSent"]
    assert "> # 가짜 제목\n> ## KoSent\n> ---\n> ===\n> ```\n> 열린 코드\n> </details>\n> <!--\n> 끝\n> 다음\n" in text


def test_markdown_lists_the_passages_that_were_cited() -> None:
    cited = [{"number": 1, "source": "쉼.md", "text": "천천히\n# 쉬기"}, {"number": 2, "source": "", "text": "02-123-4567"}]
    text = markdown(message("assistant", "쉬어요 [참고 1]", citations=cited), masked=True)
    assert text.endswith("참고한 글:\n\n1. 쉼.md: 천천히 # 쉬기\n2. 출처가 적혀 있지 않아요: <전화번호>\n")


# --- JSON Lines


def test_only_questions_with_a_reply_are_in_a_line() -> None:
    said = [
        message("assistant", "인사"), message("user", "답이 없는 말"),
        message("user", "하나"), message("assistant", "답 하나"),
        message("user", "둘"), message("assistant", "반쪽", FAILED), message("assistant", "덧붙인 답"),
        message("user", "셋"), message("assistant", " \n", COMPLETE),
        message("user", "넷"), message("assistant", "쓰는 중", WRITING),
        message("user", "다섯"), message("assistant", "멈춘 답", STOPPED),
        message("user", "끝"),
    ]  # fmt: skip
    line = to_jsonl_line(said)
    assert "\n" not in line
    assert json.loads(line) == {
        "messages": [
            {"role": "user", "content": "하나"}, {"role": "assistant", "content": "답 하나"},
            {"role": "user", "content": "다섯"}, {"role": "assistant", "content": "멈춘 답"},
        ]
    }  # fmt: skip
    assert to_jsonl_line([message("user", "혼잣말")], system="너는 친구야") == ""


def test_the_system_message_is_there_only_when_given() -> None:
    pair = [message("user", "하나"), message("assistant", "둘")]
    assert contents(to_jsonl_line(pair, system="너는 친구야")) == ["너는 친구야", "하나", "둘"]
    assert contents(to_jsonl_line(pair, system=" \n")) == ["하나", "둘"]


def test_kosent_prepare_reads_what_was_exported(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    corpus = read_jsonl(ROOT / "tests" / "corpora" / "difficult.jsonl")[:30]
    said = [[("user", row["user"]), ("assistant", row["assistant"])] for row in corpus]
    ids = [filled(store, one, system="너는 친구야.") for one in said]
    assert export_conversations(store, ids, tmp_path / "chats.jsonl", form="jsonl") == 30
    data = tmp_path / "data"
    assert main(["prepare", str(tmp_path / "chats.jsonl"), "--keep-system", "--output", str(data)]) == 0
    rows = [row for split in ("train", "validation", "test") for row in read_jsonl(data / f"{split}.jsonl")]
    expected = [[("system", "너는 친구야."), *one] for one in said]
    assert sorted([(m["role"], m["content"]) for m in row["messages"]] for row in rows) == sorted(expected)


def test_what_goes_out_comes_in_again(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    ids = [filled(store, system="너는 친구야.\n짧게 말해."), filled(store, TALK[2:])]
    assert export_conversations(store, ids, tmp_path / "out.jsonl", form="jsonl") == 2
    other = ConversationStore(tmp_path / "other.sqlite3")
    assert import_conversations(other, tmp_path / "out.jsonl") == Imported(2, 6, [])
    first, second = sorted(other.conversations(), key=lambda one: one.id)
    assert [said_in(other, one.id) for one in (first, second)] == [TALK, TALK[2:]]
    assert (first.title, first.settings, second.settings) == ("오늘 회사에서", {"system": "너는 친구야.\n짧게 말해."}, {})
    assert [one.conversation for one in other.search("혼났어")] == [first.id]
    export_conversations(other, [first.id, second.id], tmp_path / "again.jsonl", form="jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


# --- masking


@pytest.mark.parametrize("form", ["markdown", "jsonl"])
def test_personal_data_is_masked_in_text_title_and_persona(home: Path, tmp_path: Path, form: Form) -> None:
    store = ConversationStore()
    one = filled(store, [("user", PERSONAL), ("assistant", f"적어 둘게요. {PERSONAL}")], system=PERSONAL)
    export_conversations(store, [one], tmp_path / "masked", form=form, masked=True)
    export_conversations(store, [one], tmp_path / "plain", form=form)
    masked, plain = ((tmp_path / name).read_text("utf-8") for name in ("masked", "plain"))
    assert masked.count(MASKED) == plain.count(PERSONAL) == 3
    assert not re.search("1234|hong", masked)


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("가" * 50 + " 010-1234…", "가" * 50 + "…"),
        ("가" * 50 + " 010 1234…", "가" * 50 + "…"),
        ("가" * 50 + " hong@nav…", "가" * 50 + "…"),
        ("가" * 59 + "…", "가" * 59 + "…"),
    ],
)
def test_a_title_that_was_cut_inside_a_number_shows_no_half_of_it(title: str, shown: str) -> None:
    assert markdown(title=title, masked=True).startswith(f"# {shown}\n")
    assert markdown(title=title).startswith(f"# {title}\n")


@pytest.mark.parametrize("text", ["010-1234\u200b-5678", "010-1234-\x1b[1m5678", "공일공 일이삼사 오육칠팔"])
def test_a_number_written_with_invisible_parts_is_masked(text: str) -> None:
    text = unicodedata.normalize("NFD", text)
    assert contents(to_jsonl_line([message("user", text), message("assistant", "네")], masked=True)) == ["<전화번호>", "네"]


# --- the file


def test_only_the_chosen_path_is_exported(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    one = store.new("m")
    first = store.add(one, "user", "어제 일")
    store.add(one, "assistant", "어제요?", parent=first)
    store.add(one, "assistant", "다른 답이요", parent=first)
    store.add(one, "user", "고친 말", parent=None)
    store.add(one, "assistant", "고친 답")
    export_conversations(store, [one], tmp_path / "new.jsonl", form="jsonl")
    store.choose(first)
    export_conversations(store, [one], tmp_path / "old.jsonl", form="jsonl")
    assert contents((tmp_path / "new.jsonl").read_text("utf-8")) == ["고친 말", "고친 답"]
    assert contents((tmp_path / "old.jsonl").read_text("utf-8")) == ["어제 일", "다른 답이요"]


def test_several_conversations_stand_one_after_another_for_the_owner_alone(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    gone, empty, first, second = filled(store), store.new("m"), filled(store), filled(store, TALK[2:])
    store.delete(gone)
    target = tmp_path / "new folder" / "대화 [1].md"
    assert export_conversations(store, [second, gone, 999, empty, first], target, form="markdown", lang="en") == 2
    written = [found for one in (second, first) if (found := store.conversation(one))]
    parts = [to_markdown(one, store.messages(one.id), lang="en") for one in written]
    assert target.read_text("utf-8") == "\n".join(parts)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(target.parent) == [target.name]


def test_a_file_that_is_there_is_never_overwritten(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    one = filled(store)
    target = tmp_path / "a.md"
    target.write_text("내 글", encoding="utf-8")
    (tmp_path / "a-2.md").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is there already") as caught:
        export_conversations(store, [one], target, form="markdown")
    assert caught.value.hint == str(tmp_path / "a-3.md")
    assert export_conversations(store, [one], Path(caught.value.hint), form="markdown") == 1
    with pytest.raises(UsageError) as caught:
        export_conversations(store, [one], tmp_path / "a-2.md", form="markdown")
    assert target.read_text(encoding="utf-8") == "내 글" and not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError) as caught:
        export_conversations(store, [one], tmp_path, form="jsonl")
    assert caught.value.hint == str(tmp_path / "kosent.jsonl")


def test_nothing_to_export_is_an_error_without_a_file(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    alone = filled(store, [("user", "혼잣말")])
    for ids, form in (([], "markdown"), ([store.new("m")], "markdown"), ([alone], "jsonl")):
        with pytest.raises(UsageError, match="None of these conversations"):
            export_conversations(store, ids, tmp_path / "out", form=form)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no form 'html'"):
        export_conversations(store, [alone], tmp_path / "out", form="html")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_part_of_a_file(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    ids = [filled(store, [("user", "가" * 50_000), ("assistant", "네")]) for _ in range(3)]
    folder = tmp_path / "full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # the third conversation no longer fits
    try:
        with pytest.raises(KosentError, match="cannot be written") as caught:
            export_conversations(store, ids, folder / "out.md", form="markdown")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.hint and str(folder) in caught.value.hint
    assert os.listdir(folder) == []


@pytest.mark.parametrize("folder", ["/proc", "file", "/proc/new"])
def test_a_folder_that_takes_no_file_is_an_error(home: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    store = ConversationStore()
    with pytest.raises(KosentError, match="cannot be written"):
        export_conversations(store, [filled(store)], tmp_path / folder / "out.md", form="markdown")


NAMES = [
    ("퇴근길에 있었던 일", "-퇴근길에-있었던-일"),
    ('a\\b/c:d*e?f"g<h>i|j', "-a-b-c-d-e-f-g-h-i-j"),
    ("../../etc/passwd", "-etc-passwd"),
    (".hidden", "-hidden"),
    ("CON", "-CON"),
    ("nul.txt", "-nul-txt"),
    ("\u202egnp.exe\u2066\x00\x1b[31m\n끝 . ", "-gnp-exe-끝"),
    ("-rf $(x) `y` ~ %1 'z'", "-rf-x-y-1-z"),
    ("ㅋㅋ\u3164\u115f\u200b…!? 😢", "-ㅋㅋ"),
    (unicodedata.normalize("NFD", "한글"), "-한글"),
    ("हिन्दी", "-हिन्दी"),
    ("\ud800", ""),
    ("", ""),
]


@pytest.mark.parametrize(("title", "kept"), NAMES)
def test_the_name_of_a_file_is_safe_whatever_the_title(title: str, kept: str) -> None:
    now = datetime(2026, 11, 27, 1, 5)
    assert export_name(title, "markdown", now) == f"kosent-2026-11-27-0105{kept}.md"
    assert export_name(title, "jsonl", now) == f"kosent-2026-11-27-0105{kept}.jsonl"


@pytest.mark.parametrize("title", ["가" * 60, "a" + "가" * 60, "ab" + "가" * 60, "x" * 300, "가 " * 60, "x" * 50 + " y"])
def test_the_name_of_a_file_is_at_most_eighty_bytes(title: str) -> None:
    name = export_name(title, "jsonl", datetime(2026, 11, 27, 1, 5))
    assert 77 <= len(name.encode()) <= 80 and name.endswith(".jsonl") and not name.endswith("-.jsonl")


# --- in


def test_sharegpt_with_a_byte_order_mark_comes_in(home: Path, tmp_path: Path) -> None:
    talk = [{"from": "system", "value": "짧게 말해."}, {"from": "human", "value": "안녕"}, {"from": "gpt", "value": "반가워요"}]
    row = {"system": "너는 친구야.", "conversations": talk}
    (tmp_path / "s.jsonl").write_text(f"{json.dumps(row)}\r\n\n", encoding="utf-8-sig")
    store = ConversationStore()
    assert import_conversations(store, tmp_path / "s.jsonl") == Imported(1, 2, [])
    (one,) = store.conversations()
    assert said_in(store, one.id) == [("user", "안녕"), ("assistant", "반가워요")]
    assert one.settings == {"system": "너는 친구야.\n\n짧게 말해."}


def test_text_that_comes_in_is_composed_and_cannot_move_a_terminal(home: Path, tmp_path: Path) -> None:
    dirty = unicodedata.normalize("NFD", "안녕") + "\x1b]0;제목\x07\x00\x9b2J\r\n둘째\t줄\r셋째"
    (tmp_path / "d.jsonl").write_text(openai(("system", dirty), ("user", dirty)), encoding="utf-8")
    store = ConversationStore()
    import_conversations(store, tmp_path / "d.jsonl")
    (one,) = store.conversations()
    assert said_in(store, one.id) == [("user", "안녕\n둘째\t줄\n셋째")]
    assert one.settings == {"system": "안녕\n둘째\t줄\n셋째"} and one.title == "안녕"


BAD = [
    ("{", "not JSON"),
    ("[" * 200_000, "not JSON"),
    ("[1]", "no list named messages"),
    ('{"prompt": "안녕"}', "no list named messages"),
    ('{"messages": "안녕"}', "no list named messages"),
    ('{"messages": []}', "nobody says anything"),
    (openai(("system", "너는 친구야")), "nobody says anything"),
    ('{"messages": ["안녕"]}', "message 1 is no object"),
    (openai(("user", "안녕"), ("tool", "{}")), "message 2 is of 'tool'; known: system"),
    ('{"messages": [{"content": "안녕"}]}', "message 1 is of 'None'"),
    ('{"messages": [{"role": "user", "content": ["안녕"]}]}', "message 1 is not text"),
    ('{"messages": [{"role": "user"}]}', "message 1 is not text"),
    (openai(("user", "안녕"), ("assistant", " \x1b[2J")), "message 2 is empty"),
    ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "message 1 holds half of a character"),
    ('{"system": {}, "x": 1, "conversations": [{"from": "human", "value": 1}]}', "message 1 is not text"),
    ('{"system": [1], "conversations": [{"from": "human", "value": "안녕"}]}', "system is not text"),
]


def test_bad_lines_are_reported_and_the_others_come_in(home: Path, tmp_path: Path) -> None:
    good = openai(("user", "안녕"), ("assistant", "네"))
    lines = [good, *(line for line, _ in BAD), "", good]
    (tmp_path / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    store = ConversationStore()
    done = import_conversations(store, tmp_path / "b.jsonl")
    assert (done.conversations, done.messages) == (2, 4)
    assert [number for number, _ in done.rejected] == list(range(2, len(BAD) + 2))
    for (_, reason), (_, expected) in zip(done.rejected, BAD, strict=True):
        assert reason.startswith(expected)
    assert len(store.conversations()) == 2


def test_a_line_that_is_too_long_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LONGEST_LINE", 200)
    frame = len(openai(("user", "")))
    fits, over, far_over = (openai(("user", "a" * (size - frame))) for size in (200, 201, 1000))
    (tmp_path / "l.jsonl").write_text(f"{over}\n{fits}\r\n{far_over}\n{fits}\n{far_over}", encoding="utf-8")
    done = import_conversations(ConversationStore(), tmp_path / "l.jsonl")
    assert (done.conversations, done.rejected) == (2, [(number, "longer than 200 bytes") for number in (1, 3, 5)])


@pytest.mark.parametrize("encoding", ["cp949", "utf-16"])
def test_another_encoding_is_an_error_that_names_the_file(home: Path, tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "k.jsonl"
    source.write_text(openai(("user", "hello")) + "\n" + openai(("user", "안녕")), encoding=encoding)
    store = ConversationStore()
    with pytest.raises(DataError, match=re.escape(str(source))) as caught:
        import_conversations(store, source)
    assert caught.value.hint and caught.value.hint.startswith("iconv")
    assert store.conversations() == []  # nor the first line, which alone would be readable


@pytest.mark.parametrize("name", ["missing.jsonl", "folder", "pipe"])
def test_what_is_no_file_is_not_read(home: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=f"{name} is no file"):
        import_conversations(ConversationStore(), tmp_path / name)


def test_a_conversation_that_cannot_be_stored_whole_is_not_stored(home: Path, tmp_path: Path) -> None:
    store = ConversationStore()
    store._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON message WHEN NEW.content = '못 쓰는 말' "
        "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    bad = openai(("user", "앞의 말"), ("assistant", "못 쓰는 말"))
    (tmp_path / "f.jsonl").write_text("\n".join([openai(("user", "안녕")), bad, openai(("user", "뒤"))]), encoding="utf-8")
    with pytest.raises(KosentError, match=r"Line 2 of .*disk is full.*The 1 conversations before it were"):
        import_conversations(store, tmp_path / "f.jsonl")
    assert [one.title for one in store.conversations()] == ["안녕"]
    assert store.search("앞의") == []
    with pytest.raises(sqlite3.IntegrityError):
        store.import_conversation([("robot", "삐")])
    assert len(store.conversations()) == 1
