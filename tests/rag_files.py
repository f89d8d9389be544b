"""Documents for the tests of the loaders, made by hand so that each can be broken in its own way."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

TEXT = "오늘은 마음이 조금 무거워요."
W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
HP = "http://www.hancom.co.kr/hwpml/2011/paragraph"
HH = "http://www.hancom.co.kr/hwpml/2011/head"
HEADER = f"""<?xml version="1.0" encoding="UTF-8"?>
<hh:head xmlns:hh="{HH}"><hh:refList>
<hh:paraProperties><hh:paraPr id="0"><hh:heading type="NONE" level="0"/></hh:paraPr>
<hh:paraPr id="1"><hh:heading type="OUTLINE" level="1"/></hh:paraPr></hh:paraProperties>
<hh:styles><hh:style id="0" name="바탕글" engName="Normal" paraPrIDRef="0"/>
<hh:style id="1" name="개요 1" engName="Outline 1" paraPrIDRef="0"/>
<hh:style id="2" name="절" engName="" paraPrIDRef="1"/></hh:styles></hh:refList></hh:head>"""


def packed(path: Path, parts: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def docx_parts(body: str, **more: str | bytes) -> dict[str, str | bytes]:
    """Parts of a DOCX with the XML `body`; `more` by part, `__` for a slash and `_xml` for the ending."""
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    rest = {name.replace("__", "/").replace("_xml", ".xml"): data for name, data in more.items()}
    return {"[Content_Types].xml": "<Types/>", "word/document.xml": document, **rest}


def word(text: str, properties: str = "") -> str:
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def hwpx_parts(body: str, header: str = HEADER) -> dict[str, str | bytes]:
    section = f'<?xml version="1.0" encoding="UTF-8"?>\n<hs:sec xmlns:hs="urn:hs" xmlns:hp="{HP}">{body}</hs:sec>'
    hpf = '<opf:package xmlns:opf="http://www.idpf.org/2007/opf/"><opf:metadata><opf:title>안내서</opf:title></opf:metadata></opf:package>'
    return {
        "mimetype": "application/hwp+zip",
        "Contents/content.hpf": hpf,
        "Contents/header.xml": header,
        "Contents/section0.xml": section,
    }


def hancom(text: str, style: int = 0) -> str:
    return f'<hp:p id="0" paraPrIDRef="0" styleIDRef="{style}"><hp:run charPrIDRef="0"><hp:t>{text}</hp:t></hp:run></hp:p>'


def stream(data: bytes, entries: str = "", *, pack: bool = True) -> bytes:
    """A stream object of a PDF."""
    body = zlib.compress(data) if pack else data
    filtered = "/Filter /FlateDecode " if pack else ""
    return f"<< {filtered}{entries} /Length {len(body)} >>\nstream\n".encode() + body + b"\nendstream"


def pdf(objects: Sequence[bytes], trailer: str = "") -> bytes:
    """A PDF of numbered objects, of which the first is its catalog."""
    out, places = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), []
    for number, data in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + data + b"\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{len(out)}\n%%EOF\n"
    return bytes(out) + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode() + end.encode()


def korean_font(encoding: str, to_unicode: int | None = None) -> bytes:
    """A font that is not embedded, as Korean documents have it; object `to_unicode` may say what its characters are."""
    table = f"/ToUnicode {to_unicode} 0 R" if to_unicode else ""
    system = "/CIDSystemInfo << /Registry (Adobe) /Ordering (Korea1) /Supplement 1 >> /DW 1000"
    below = f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /HYSMyeongJo-Medium {system} >>"
    above = f"/Type /Font /Subtype /Type0 /BaseFont /HYSMyeongJo-Medium /Encoding /{encoding} {table}"
    return f"<< {above} /DescendantFonts [{below}] >>".encode()


def drawn(lines: Sequence[bytes]) -> bytes:
    """The drawing of a page that shows strings, one below the other."""
    return b"BT /F1 12 Tf 72 720 Td " + b" ".join(b"<" + line.hex().encode() + b"> Tj 0 -20 Td" for line in lines) + b" ET"


def pages_pdf(contents: Sequence[bytes], font: bytes, *more: bytes, catalog: str = "", trailer: str = "") -> bytes:
    """A PDF with a page for each object of `contents`. Object 3 is its font, then come `more`, then page, contents, page …"""
    first = 4 + len(more)
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(contents)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        font,
        *more,
    ]
    for number, content in enumerate(contents):
        used = "/Resources << /Font << /F1 3 0 R >> /XObject << /X 4 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] {used} /Contents {first + 2 * number + 1} 0 R >>"
        objects.append(page.encode())
        objects.append(content)
    return pdf(objects, trailer)


def korean_pdf(pages: Sequence[Sequence[str]], encoding: str = "UniKS-UCS2-H", codec: str = "utf-16-be", **more: str) -> bytes:
    contents = [stream(drawn([line.encode(codec) for line in lines])) for lines in pages]
    return pages_pdf(contents, korean_font(encoding), b"null", **more)
