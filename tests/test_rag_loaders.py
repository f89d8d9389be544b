"""Loading of documents: every kind with its structure, and everything that can be wrong with a document."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kosent.conversations import COMPLETE, StoredMessage
from kosent.conversations.exchange import to_jsonl_line, to_markdown
from kosent.conversations.store import Conversation
from kosent.errors import DataError
from kosent.rag.loaders import KINDS, Limits, Loaded, UnreadableDocument, kind_of, load, loadable
from kosent.rag.readable import garbled, tidy
from rag_files import HP, TEXT, W, docx_parts, drawn, hancom, hwpx_parts, korean_font, korean_pdf, packed, pages_pdf, stream, word

Read = Callable[..., Loaded]
Refused = Callable[..., UnreadableDocument]
TALK = [("user", "오늘 혼났어\n\n# 응"), ("assistant", "- 많이 속상하셨겠어요.\n1. 무슨 일이었나요?")]
LINES = ["오늘은 마음이 조금 무거워요. 그래도 괜찮아요.", "천천히 걸어 봐요."]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Loads a document of the given name and content."""

    def write_and_load(name: str, content: str | bytes, **limits: int) -> Loaded:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load(path, limits=Limits(**limits))

    return write_and_load


@pytest.fixture
def refused(read: Read) -> Refused:
    """The error that loading a document of the given name and content raises."""

    def caught(name: str, content: str | bytes, **limits: int) -> UnreadableDocument:
        with pytest.raises(UnreadableDocument) as error:
            read(name, content, **limits)
        assert str(error.value.path) in str(error.value) and str(error.value).endswith(".")
        return error.value

    return caught


def zipped(parts: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return out.getvalue()


def parts(loaded: Loaded) -> list[tuple[str, str]]:
    return [(section.heading, section.text) for section in loaded.sections]


def test_the_kinds_are_known_by_their_suffix() -> None:
    assert loadable(Path("가.PDF")) and loadable(Path("a/b.hwpx")) and not loadable(Path("a.hwp")) and not loadable(Path("txt"))
    assert kind_of(Path("a.TSV")) == "table" and kind_of(Path("a.exe")) == ""
    assert set(KINDS) == {
        ".txt",
        ".md",
        ".markdown",
        ".html",
        ".htm",
        ".pdf",
        ".docx",
        ".hwpx",
        ".csv",
        ".tsv",
        ".jsonl",
        ".json",
    }


# --- text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.csv", "a.jsonl"])
def test_text_is_read_in_every_encoding(read: Read, encoding: str, name: str) -> None:
    rows = {"a.csv": f"글\n{TEXT}\n", "a.jsonl": json.dumps({"글": TEXT}, ensure_ascii=False)}
    loaded = read(name, rows.get(name, TEXT).encode(encoding))
    assert [section.text for section in loaded.sections] == [f"글: {TEXT}" if name in rows else TEXT]


def test_text_is_made_fit_to_be_shown_and_compared(read: Read) -> None:
    said = unicodedata.normalize("NFD", "마음") + "\u202e뒤\u200b집기\x1b[31m 빨강\x1b[0m\x07\tㄱ\r\n\r\n\r\n\r\n\U000e0041끝 \n"
    loaded = read(unicodedata.normalize("NFD", "일기\n장.txt"), said)
    assert [section.text for section in loaded.sections] == ["마음뒤집기 빨강\tㄱ\n\n끝"]
    assert loaded.title == "일기 장" and loaded.sections[0].page is None


def test_a_web_page_may_say_its_encoding(read: Read, refused: Refused) -> None:
    page = '<meta charset="{}"><p>今日は少し気持ちが重いです。ゆっくり歩いてみましょう。'
    assert "気持ち" in read("a.html", page.format("Shift_JIS").encode("cp932")).sections[0].text
    assert read("a.html", f'<meta charset="utf-7"><p>{TEXT}').sections[0].text == TEXT
    assert refused("a.txt", b"\xff\x80\xff\x80" * 9).reason == "garbled"


@pytest.mark.parametrize("character", ["\u0300", "\u0315\u0300"])
def test_many_marks_on_a_letter_take_no_quadratic_time(character: str) -> None:
    assert len(tidy("가" + character * 500_000)) < 40


# --- structure


def test_markdown_keeps_headings_lists_tables_and_code(read: Read) -> None:
    loaded = read(
        "a.md",
        "---\ntitle: '마음 책'\n---\n머리말\n\n# 1장\n\n**굵은** [링크](http://a) ![그림](x)<!-- 숨김 -->\n\n"
        "<!-- 숨김 -->\n\n## 절\n\n"
        "- 가\n- 나\n  1. 다\n  2. 라\n\n| a | b |\n|--|--|\n| 1 | **2** |\n\n```\n# 주석\n  들여쓰기\n```\n\n"
        "> # 인용\n\n## 빈 절\n\n# 2장\n\n끝",
    )
    assert loaded.title == "마음 책"
    assert parts(loaded) == [
        ("", "머리말"),
        ("1장", "굵은 링크 그림"),
        ("1장 > 절", "- 가\n- 나\n  1. 다\n  2. 라\n\na\tb\n1\t2\n\n# 주석\n  들여쓰기\n\n인용"),
        ("1장 > 빈 절", "빈 절"),
        ("2장", "끝"),
    ]


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_conversations_that_the_chat_exported_become_turns(read: Read, lang: str) -> None:
    messages = [StoredMessage(1, role, text, COMPLETE) for role, text in TALK]
    cited = StoredMessage(2, "assistant", "네", COMPLETE, facts={"citations": [{"number": 1, "source": "책", "text": "인용"}]})
    pieces = [to_markdown(Conversation(1, title, "m", 0.0, 0.0), [*messages, cited], lang=lang) for title in ("퇴근길", "주말")]
    said = "사용자: 오늘 혼났어\n\n# 응\n챗봇: - 많이 속상하셨겠어요.\n1. 무슨 일이었나요?\n챗봇: 네"
    assert parts(read("a.md", "\n".join(pieces))) == [("퇴근길", said), ("주말", said)]
    assert read("a.md", pieces[0]).title == "퇴근길"
    line = to_jsonl_line(messages, system="너는 친구야")
    rows = read("a.jsonl", f'{line}\n{{"conversations": [{{"from": "human", "value": "안녕"}}]}}\n{{"messages": 3}}\n')
    assert [section.text for section in rows.sections] == [said.removesuffix("\n챗봇: 네"), "사용자: 안녕", "messages: 3"]


def test_html_keeps_headings_and_leaves_out_what_is_no_text(read: Read) -> None:
    loaded = read(
        "a.html",
        "<html><head><title>제목\n이에요</title><style>b</style></head><body><nav>차림표</nav><h1>큰 <i>제목</i></h1>"
        "<p>가<b>나</b><br>다<p>라&amp;<ul><li>하나<li><p>둘</ul><table><tr><th>1<td>2<tr><td>3<td><p>4</table>"
        "<pre>  a\n    b</pre><h2>작은</h2>끝<script>나쁜()</script><div hidden>숨은<img></div>"
        "<p style='display: none'>숨은</p><!-- 숨은 --><p>보이는</body></html>",
    )
    assert loaded.title == "제목 이에요"
    assert parts(loaded) == [
        ("큰 제목", "가나\n다\n\n라&\n\n- 하나\n- 둘\n\n1\t2\n3\t4\n\n  a\n    b"),
        ("큰 제목 > 작은", "끝\n\n보이는"),
    ]


def test_rows_of_tables_are_sections(read: Read) -> None:
    loaded = read("a.csv", '이름,나이,나이\n가,1,2\n"나\n다",3,\n,,\n라,1,2,3\n')
    assert [section.text for section in loaded.sections] == ["이름: 가\n나이: 1\n나이 (2): 2", "이름: 나\n다\n나이: 3"]
    assert loaded.notes == ["1 of 4 rows cannot be read and are left out (row 4: line 6: 4 cells where the header has 3)"]
    assert [section.text for section in read("a.tsv", "이름\t나이\n가\t1\n").sections] == ["이름: 가\n나이: 1"]


def test_json_entries_are_sections(read: Read, refused: Refused) -> None:
    loaded = read("a.jsonl", '{"제목": "가", "빈": null, "꼬리표": ["나", "다"], "속": {"라": 1}}\n깨진\n')
    assert [section.text for section in loaded.sections] == ['제목: 가\n꼬리표: 나, 다\n속: {"라": 1}']
    assert loaded.notes[0].startswith("1 of 2 rows cannot be read")
    assert parts(read("a.json", '[{"제목": "가"}, {"제목": "나"}]')) == [("", "제목: 가"), ("", "제목: 나")]
    assert refused("a.jsonl", "깨진\n").reason == "damaged"
    assert refused("a.jsonl", '{"a":' + "[" * 100_000).reason == "damaged"


def test_docx_keeps_headings_lists_tables_and_footnotes(read: Read) -> None:
    style = "<w:pPr><w:pStyle w:val='{}'/></w:pPr>"
    styles = (
        f"<w:styles xmlns:w='{W}'><w:style w:styleId='1'><w:name w:val='heading 1'/></w:style><w:style w:styleId='2'>"
        "<w:name w:val='절'/><w:basedOn w:val='b'/></w:style><w:style w:styleId='b'><w:name w:val='c'/>"
        "<w:pPr><w:outlineLvl w:val='1'/></w:pPr></w:style></w:styles>"
    )
    cell = f"<w:tc>{word('칸')}{word('둘')}</w:tc>"
    table = (
        f"<w:tbl><w:tr>{cell}{cell}</w:tr><w:tr>{cell}<w:tc><w:tbl><w:tr>{cell}</w:tr></w:tbl>{word('')}</w:tc></w:tr></w:tbl>"
    )
    odd = (
        "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>가</w:t><w:tab/><w:t>나</w:t><w:br/></w:r>"
        "<w:del><w:r><w:delText>지운</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>옮긴</w:t></w:r></w:moveFrom><w:r><w:rPr><w:vanish/></w:rPr><w:t>숨은</w:t></w:r>"
        "<w:r><w:instrText>PAGE</w:instrText><w:t>다</w:t></w:r></w:p>"
    )
    body = word("1장", style.format(1)) + word("본문") + word("절", style.format(2)) + odd + table
    body += word("하나", "<w:pPr><w:numPr/></w:pPr>") + word("둘", "<w:pPr><w:numPr/></w:pPr>")
    notes = f"<w:footnotes xmlns:w='{W}'>{word('출처')}</w:footnotes>"
    core = "<c xmlns:d='http://purl.org/dc/elements/1.1/'><d:title>마음 안내서</d:title></c>"
    more: dict[str, str | bytes] = {"word/styles.xml": styles, "word/footnotes.xml": notes, "docProps/core.xml": core}
    loaded = read("a.docx", zipped({**docx_parts(body), **more}))
    assert loaded.title == "마음 안내서"
    assert parts(loaded) == [
        ("1장", "본문"),
        ("1장 > 절", "가\t나\n다\n\n칸 둘\t칸 둘\n칸 둘\t칸 둘\n\n- 하나\n- 둘"),
        ("각주", "출처"),
    ]


def test_docx_of_python_docx_is_read(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("1장", 1)
    document.add_paragraph(TEXT)
    document.add_paragraph("목록", style="List Bullet")
    document.save(tmp_path / "안내.docx")
    assert parts(load(tmp_path / "안내.docx")) == [("1장", f"{TEXT}\n\n- 목록")]


def test_hwpx_keeps_headings_tables_and_the_order_of_its_sections(read: Read) -> None:
    cell = f"<hp:tc><hp:subList>{hancom('칸')}{hancom('둘')}</hp:subList></hp:tc>"
    table = f"<hp:p><hp:run><hp:t>표 앞</hp:t><hp:tbl><hp:tr>{cell}{cell}</hp:tr></hp:tbl><hp:t>표 뒤</hp:t></hp:run></hp:p>"
    odd = (
        "<hp:p><hp:run><hp:ctrl><hp:header><hp:subList><hp:p><hp:run><hp:t>머리말</hp:t></hp:run></hp:p></hp:subList>"
        "</hp:header></hp:ctrl><hp:t>가<hp:tab/>나<hp:lineBreak/>다<hp:deleteBegin/>지운<hp:deleteEnd/></hp:t>"
        "<hp:equation><hp:script>x</hp:script></hp:equation></hp:run></hp:p>"
    )
    given = hwpx_parts(hancom("1장", 1) + hancom(TEXT) + hancom("절", 2) + odd + table)
    for number in (10, 2):
        given[f"Contents/section{number}.xml"] = f'<s xmlns:hp="{HP}">{hancom(f"{number}구역")}</s>'
    loaded = read("a.hwpx", zipped(given))
    assert loaded.title == "안내서"
    assert parts(loaded) == [
        ("1장", TEXT),
        ("1장 > 절", "가\t나\n다\n\n표 앞\n\n칸 둘\t칸 둘\n\n표 뒤\n\n2구역\n\n10구역"),
    ]


# --- PDF


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [("UniKS-UCS2-H", "utf-16-be"), ("UniKS-UTF16-H", "utf-16-be"), ("KSCms-UHC-H", "cp949"), ("KSC-EUC-H", "euc_kr")],
)
def test_pdf_gives_pages_of_korean_text(read: Read, encoding: str, codec: str) -> None:
    loaded = read("a.pdf", korean_pdf([LINES, [], [TEXT]], encoding, codec))
    assert [(section.page, section.text) for section in loaded.sections] == [(1, "\n".join(LINES)), (3, TEXT)]
    assert loaded.notes == ["1 of 3 pages held no text"] and loaded.title == "a"


def test_pdf_fonts_may_say_what_their_glyphs_are(read: Read) -> None:
    letters = sorted(set(TEXT))
    table = "".join(f"<{number:04x}> <{ord(letter):04x}>\n" for number, letter in enumerate(letters, start=1))
    space = "1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange"
    cmap = f"/CIDInit /ProcSet findresource begin begincmap {space}\n{len(letters)} beginbfchar\n{table}endbfchar endcmap end"
    shown = b"".join((letters.index(letter) + 1).to_bytes(2, "big") for letter in TEXT)
    for encoding in ("/Identity-H", "5 0 R"):
        font = korean_font("Identity-H", 4).replace(b"/Identity-H", encoding.encode())
        content = pages_pdf([stream(drawn([shown]))], font, stream(cmap.encode()), stream(space.encode(), "/Type /CMap"))
        assert read("a.pdf", content).sections[0].text == TEXT


def test_pdf_tells_its_bookmarks_and_its_title(read: Read) -> None:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(korean_pdf([[f"{number}쪽"] for number in range(1, 6)]))))
    writer.add_metadata({"/Title": "마음 돌보기"})
    first = writer.add_outline_item(title="1장", page_number=1)
    writer.add_outline_item(title="1.1", page_number=1, parent=first)
    writer.add_outline_item(title="1.2", page_number=3, parent=first)
    writer.add_outline_item(title="2장", page_number=4)
    out = io.BytesIO()
    writer.write(out)
    loaded = read("a.pdf", out.getvalue())
    assert [section.heading for section in loaded.sections] == ["", "1장 > 1.1", "1장 > 1.1", "1장 > 1.2", "2장"]
    assert loaded.title == "마음 돌보기"
    writer.add_metadata({"/Title": "Microsoft Word - 무제.docx"})
    out = io.BytesIO()
    writer.write(out)
    assert read("b.pdf", out.getvalue()).title == "b"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_encrypted_pdf_opens_with_an_empty_password_only(read: Read, refused: Refused, algorithm: str) -> None:
    from pypdf import PdfReader, PdfWriter

    if algorithm.startswith("AES"):
        pytest.importorskip("cryptography")
    for password in ("", "비밀"):
        writer = PdfWriter(PdfReader(io.BytesIO(korean_pdf([[TEXT]]))))
        writer.encrypt(password, "owner", algorithm=algorithm)
        out = io.BytesIO()
        writer.write(out)
        if password:
            assert refused("a.pdf", out.getvalue()).reason == "encrypted"
        else:
            assert read("a.pdf", out.getvalue()).sections[0].text == TEXT


def test_pdf_without_text_or_with_lost_characters(read: Read, refused: Refused) -> None:
    blank, lost = stream(b"0 0 10 10 re f"), stream(drawn([bytes(range(1, 60)) * 4]))
    font = korean_font("Identity-H")
    error = refused("a.pdf", pages_pdf([blank, blank], font, b"null"))
    assert error.reason == "no_text" and "character recognition" in (error.hint or "")
    assert refused("a.pdf", pages_pdf([lost], font, b"null")).reason == "garbled"
    assert refused("a.pdf", korean_pdf([])).reason == "damaged"
    some = pages_pdf([stream(drawn([TEXT.encode("utf-16-be")])), lost, blank], korean_font("UniKS-UCS2-H"), b"null")
    loaded = read("a.pdf", some)
    assert [section.text for section in loaded.sections] == [TEXT]
    assert loaded.notes == ["1 of 3 pages held no text", "1 of 3 pages are garbled and are left out: 2"]


def test_pdf_does_not_hang_or_fill_the_memory(read: Read, refused: Refused) -> None:
    font = korean_font("UniKS-UCS2-H")
    form = "/Type /XObject /Subtype /Form /Resources << /Font << /F1 3 0 R >> /XObject << /X 4 0 R >> >>"
    bomb = stream(b"(a) Tj " * 8_000_000)
    assert refused("a.pdf", pages_pdf([bomb], font, b"null")).reason == "too_big"
    text = stream(drawn([TEXT.encode("utf-16-be")]))
    loaded = read("a.pdf", pages_pdf([text, bomb], font, b"null"))
    assert [section.text for section in loaded.sections] == [TEXT]
    assert loaded.notes == ["1 of 2 pages cannot be read and are left out: 2"]
    own = pages_pdf([stream(b"/X Do")], font, stream(drawn([TEXT.encode("utf-16-be")]) + b" /X Do", form))
    assert read("a.pdf", own).sections[0].text.strip() == TEXT
    slow = pages_pdf([stream(b"/X Do " * 4_000)], font, stream(b"1 " * 100_000 + b"Tj", form))
    assert "takes longer than 1 seconds and one for each page" in str(refused("a.pdf", slow, seconds=1))
    looped = korean_pdf([[TEXT]]).replace(b"/Kids [5 0 R] /Count 1 >>", b"/Kids [2 0 R] /Count 1 >>")
    assert refused("a.pdf", looped).reason == "damaged"


def test_a_pdf_is_read_where_another_module_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(korean_pdf([[TEXT]]))
    (tmp_path / "pypdf.py").write_text("raise SystemExit('not this one')")
    code = "from pathlib import Path; from kosent.rag.loaders import load; print(load(Path('a.pdf')).sections[0].page)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n" and done.stderr == ""


# --- limits and lies


def test_what_is_too_big_is_refused(refused: Refused) -> None:
    assert refused("a.txt", "가" * 400_000, megabytes=1).reason == "too_big"
    for name in ("a.txt", "a.md", "a.html"):
        assert refused(name, "가나다 " * 100, characters=300).reason == "too_big"
    assert refused("a.csv", "글\n" + "가나다\n" * 100, characters=300).reason == "too_big"
    assert refused("a.docx", zipped(docx_parts(word("가나다") * 100)), characters=300).reason == "too_big"
    assert refused("a.pdf", korean_pdf([[TEXT]] * 3), pages=2).reason == "too_big"
    assert refused("a.pdf", korean_pdf([[TEXT]] * 3), characters=20).reason == "too_big"
    headings = "# " + "가" * 150 + "\n" + "## 나\n\n다\n" * 100
    assert refused("a.md", headings, characters=5_000).reason == "too_big"


def test_pipes_devices_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to("/dev/zero")
    (tmp_path / "c.txt").mkdir()
    for name in "abc":
        with pytest.raises(UnreadableDocument) as caught:
            load(tmp_path / f"{name}.txt")
        assert caught.value.reason == "unsafe"
    (tmp_path / "e.txt").symlink_to("e.txt")
    for name in "de":
        with pytest.raises(UnreadableDocument, match="cannot be read") as caught:
            load(tmp_path / f"{name}.txt")
        assert caught.value.reason == "damaged"
    assert isinstance(caught.value, DataError) and caught.value.exit_code == 3


def test_what_is_not_what_its_name_says_is_refused(refused: Refused) -> None:
    hwp = refused("a.hwp", b"\xd0\xcf\x11\xe0")
    assert hwp.reason == "unknown_kind" and hwp.hint == "save it as .hwpx in Hancom Office"
    for name, content in {
        "a.txt": korean_pdf([[TEXT]]), "b.md": zipped(docx_parts(word(TEXT))), "a.docx": b"\xd0\xcf\x11\xe0" * 99,
        "b.docx": zipped(hwpx_parts(hancom(TEXT))), "a.hwpx": zipped(docx_parts(word(TEXT))),
    }.items():  # fmt: skip
        assert refused(name, content).reason == "unknown_kind", name
    for name in ("a.pdf", "c.docx", "b.hwpx"):
        assert refused(name, TEXT).reason == "damaged"
    for name in KINDS:
        assert refused(f"empty{name}", b"").reason == "no_text"
    for name in ("a.txt", "a.md", "a.html"):
        assert refused(name, " \n\t\n").reason == "no_text"
    assert refused("n.txt", TEXT.encode("utf-16-le")).reason == "garbled"
    assert refused("a.html", "<script>x</script><nav>차림표</nav>").reason == "no_text"


@pytest.mark.parametrize("suffix", [".docx", ".hwpx"])
def test_hostile_archives_and_xml_are_refused(tmp_path: Path, read: Read, refused: Refused, suffix: str) -> None:
    make, paragraph, main = (
        (docx_parts, word, "word/document.xml") if suffix == ".docx" else (hwpx_parts, hancom, "Contents/section0.xml")
    )
    good = make(paragraph(TEXT))
    document = str(good[main])
    laughs = '<!DOCTYPE l [<!ENTITY a "하하하하"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    outside = '<!DOCTYPE l [<!ENTITY c SYSTEM "file:///etc/hostname">]>'
    for before in (laughs, outside, '<!DOCTYPE l SYSTEM "http://127.0.0.1:9/x.dtd">'):
        xml = document.replace("\n", "\n" + before, 1).replace(TEXT, "&c;" if "ENTITY" in before else TEXT)
        assert refused(f"a{suffix}", zipped({**good, main: xml})).reason == "unsafe"
    deep = document.replace(paragraph(TEXT), "<x>" * 999 + "</x>" * 999)
    assert refused(f"a{suffix}", zipped({**good, main: deep})).reason == "unsafe"
    bomb = document.replace(TEXT, " " * 2_000_000)
    assert refused(f"a{suffix}", zipped({**good, main: bomb})).reason == "unsafe"
    assert refused(f"a{suffix}", zipped({**good, main: bomb}), unpacked=1).reason == "too_big"
    for name in ("../../x.xml", "/etc/x", "a\\..\\x", "C:x"):
        assert refused(f"a{suffix}", zipped({**good, name: "x"})).reason == "unsafe"
    assert refused(f"a{suffix}", zipped({**good, **{f"{number}": b"" for number in range(5_001)}})).reason == "unsafe"
    packed(tmp_path / f"x{suffix}", good, zipfile.ZIP_LZMA)
    assert refused(f"x{suffix}", (tmp_path / f"x{suffix}").read_bytes()).reason == "unsafe"
    inside = zipped({**good, "word/embeddings/x.docx": zipped(make(paragraph("속에 있는 글")))})
    assert [section.text for section in read(f"i{suffix}", inside).sections] == [TEXT]


def test_entries_of_one_name_and_encrypted_archives(refused: Refused) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, pytest.warns(UserWarning):
        for text in ("가", "나"):
            archive.writestr("word/document.xml", str(docx_parts(word(text))["word/document.xml"]))
    assert refused("a.docx", out.getvalue()).reason == "unsafe"
    locked = bytearray(zipped(docx_parts(word(TEXT))))
    for place in (locked.index(b"PK\x03\x04") + 6, locked.index(b"PK\x01\x02") + 8):
        locked[place] |= 1
    assert refused("a.docx", bytes(locked)).reason == "encrypted"
    office = b"\xd0\xcf\x11\xe0" + bytes(99) + "EncryptedPackage".encode("utf-16-le")
    assert refused("a.docx", office).reason == "encrypted"
    manifest = "<m><file-entry><encryption-data/></file-entry></m>"
    assert refused("a.hwpx", zipped({**hwpx_parts(hancom(TEXT)), "META-INF/manifest.xml": manifest})).reason == "encrypted"


# --- what can be read


@pytest.mark.parametrize(
    "text",
    [
        f"{TEXT} 그래도 괜찮아요, 천천히 걸어 봐요.",
        "Take a slow breath and name what you feel right now.",
        "今日は少し気持ちが重いです。ゆっくり歩いてみましょう。カタカナも。",
        "今天心情有点沉重，慢慢走一走吧。没关系的，你不必一个人承受。",
        "國之語音異乎中國與文字不相流通故愚民有所欲言而終不得伸其情者多矣",
        "Hôm nay lòng tôi hơi nặng trĩu, nhưng không sao đâu, hãy đi chậm thôi nhé",
        "Сегодня у меня тяжело на душе, но всё будет хорошо, правда.",
        f"\uf0b7 {TEXT} 그래도 괜찮아요.\n\uf0b7 {TEXT} I feel OK です 大丈夫 (α=0.05) √2 ≤ 3 → 😀😀",
        "나랏〮말〯ᄊᆞ미〮 듀ᇰ귁〮에〮달아〮 문ᄍᆞᆼ〮와〮로〮서르ᄉᆞᄆᆞᆺ디〮아니〮ᄒᆞᆯᄊᆡ〮",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 | 3.14 2.71 - - - -",
        "def f(x): return {'a': [1, 2, 3]}  # 주석 주석 주석",
        "ㅋㅋㅋㅋ ㅠㅠ",
    ],
)
def test_text_of_every_language_passes(text: str) -> None:
    assert not garbled(text) and not garbled(text * 50)


@pytest.mark.parametrize(
    ("written", "taken"),
    [("cp949", "latin-1"), ("utf-8", "latin-1"), ("utf-8", "cp949"), ("cp949", "cp932"), ("utf-16-le", "utf-16-be")],
)
def test_text_in_the_wrong_encoding_is_garbled(refused: Refused, written: str, taken: str) -> None:
    text = " ".join(LINES).encode(written).decode(taken, "replace")
    assert refused("a.txt", text).reason == "garbled"
    assert garbled(text.replace("\ufffd", "?"))


def test_characters_that_were_lost_are_garbled() -> None:
    dice = random.Random(1)
    for low, high in ((1, 9_000), (1, 600), (0xAC00, 0xD7A3), (0xE000, 0xF000)):
        assert garbled("".join(chr(dice.randint(low, high)) for _ in range(300)))
    assert garbled("오늘은 \ufffd\ufffd\ufffd 무거워요 그래도 괜찮아요 천천히")


# --- anything at all


def samples() -> dict[str, bytes]:
    rows = [{"글": f"{TEXT} {number}"} for number in range(5)]
    return {
        "a.txt": TEXT.encode(), "b.txt": TEXT.encode("cp949"), "c.txt": TEXT.encode("utf-16"),
        "a.md": f"# 제목\n\n- {TEXT}\n\n| a | b |\n|--|--|\n| 1 | 2 |\n".encode(),
        "a.html": f"<html><title>제목</title><body><h1>제목</h1><table><tr><td>{TEXT}</table></body></html>".encode(),
        "a.csv": f'글,쪽\n"{TEXT}",1\n"{TEXT}",2\n'.encode(),
        "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
        "a.json": json.dumps(rows, ensure_ascii=False, indent=1).encode(),
        "a.docx": zipped(docx_parts(word(TEXT) * 5)), "a.hwpx": zipped(hwpx_parts(hancom(TEXT) * 5)),
        "a.pdf": korean_pdf([[TEXT], LINES]),
    }  # fmt: skip


@pytest.mark.parametrize("name", samples())
def test_whatever_is_done_to_a_document_it_is_read_or_refused(read: Read, name: str) -> None:
    whole, dice = samples()[name], random.Random(name)
    tries = 4 if name.endswith(".pdf") else 25
    broken = [whole[: len(whole) * part // tries] for part in range(1, tries)]
    for _ in range(tries):
        changed = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        broken.append(bytes(changed))
    read(name, whole)
    for content in broken:
        try:
            loaded = read(name, content)
        except UnreadableDocument:
            continue
        assert loaded.title and all(section.text.strip() for section in loaded.sections)
        assert all(tidy(section.text) == section.text for section in loaded.sections)
