"""ZIP archives and XML from strangers, read without trusting what they say about themselves.

Nothing is unpacked to disk, archives inside the archive are not opened, and only the parts that a loader asks for are read, each
no further than its limit. XML is read as a stream of events: no tree, no document type, no entities, nothing fetched.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler, feature_namespaces

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import create_parser

from kosent.rag.document import Limits, Refusal

ENTRIES = 5_000
"""Members an archive may have."""
PART = 64 * 1024 * 1024
"""Bytes of one part; Expat takes quadratic time for a single huge tag."""
RATIO = 200
"""How many times larger than packed a part may be, from `SMALL` bytes on; documents reach about 40."""
SMALL = 1024 * 1024
DEPTH = 250
"""XML elements inside one another."""

_ENTRY = b"PK\x01\x02"
_OLE = b"\xd0\xcf\x11\xe0"
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")


class SafeZip:
    """The members of a ZIP archive that can be trusted to be read. Raises `Refusal` when the archive cannot."""

    def __init__(self, path: Path, limits: Limits) -> None:
        data = path.read_bytes()
        if data.startswith(_OLE):
            if _ENCRYPTED_PACKAGE in data:
                raise Refusal("encrypted", "it is protected with a password", "save it without a password")
            raise Refusal("unknown_kind", "it is a document of an older kind under a new name", "save it as .docx, .hwpx or .pdf")
        if not data.startswith(b"PK"):
            raise Refusal("damaged", "it is no ZIP archive, as a document of this kind should be")
        if data.count(_ENTRY) > 4 * ENTRIES:  # before an object is made for each; stored archives inside count too
            raise Refusal("unsafe", f"its archive has more than {ENTRIES:,} entries")
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
            raise Refusal("damaged", f"its archive is cut off or damaged ({error})") from error
        self._left = limits.unpacked * 1024 * 1024
        self._members = {member.filename: member for member in self._archive.infolist()}
        self._check()

    def _check(self) -> None:
        members = self._archive.infolist()
        if len(members) > ENTRIES:
            raise Refusal("unsafe", f"its archive has more than {ENTRIES:,} entries")
        if len(self._members) < len(members):
            raise Refusal("unsafe", "its archive has several entries of one name")
        for member in members:
            name = member.filename
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/") or "\0" in member.orig_filename:
                raise Refusal("unsafe", f"its archive has an entry that leads out of it, {name[:80]!r}")
            if member.flag_bits & 1:
                raise Refusal("encrypted", "its archive is protected with a password", "save it without a password")

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, name: str) -> bytes | None:
        """The bytes of a part, None when there is none of that name."""
        member = self._members.get(name)
        if member is None:
            return None
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refusal("unsafe", f"its part {name} is packed in a way that such documents do not use")
        most = min(PART, self._left)
        try:
            with self._archive.open(member) as part:
                data = part.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError) as error:
            raise Refusal("damaged", f"its part {name} is damaged ({error})") from error
        if len(data) > most:
            raise Refusal("too_big", f"its part {name} unpacks to more than {most:,} bytes")
        if len(data) > SMALL and len(data) > RATIO * max(1, member.compress_size):
            raise Refusal("unsafe", f"its part {name} unpacks to {len(data) // max(1, member.compress_size):,} times its size")
        self._left -= len(data)
        return data


class Elements(ContentHandler):
    """Elements of an XML part by their local names; a subclass says what they mean."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def begin(self, name: str, values: dict[str, str]) -> None:
        """An element begins; `values` are its attributes."""

    def finish(self, name: str) -> None:
        """An element ends."""

    def startElementNS(self, name, qname, attrs):  # type: ignore[no-untyped-def]
        self._depth += 1
        if self._depth > DEPTH:
            raise Refusal("unsafe", f"its XML has more than {DEPTH} elements inside one another")
        self.begin(name[1], {key[1]: value for key, value in attrs.items()})

    def endElementNS(self, name, qname):  # type: ignore[no-untyped-def]
        self._depth -= 1
        self.finish(name[1])


def read_xml(data: bytes, handler: Elements, part: str) -> None:
    """Hands the elements of `data` to `handler`. Raises `Refusal`."""
    parser = create_parser(forbid_dtd=True, forbid_entities=True, forbid_external=True)
    parser.setFeature(feature_namespaces, True)
    parser.setContentHandler(handler)
    try:
        parser.feed(data)
        parser.close()
    except DefusedXmlException as error:
        raise Refusal("unsafe", f"its part {part} declares a document type or entities") from error
    except SAXParseException as error:
        place = f"line {error.getLineNumber()}, column {error.getColumnNumber()}"
        raise Refusal("damaged", f"its part {part} is no XML from {place} on ({error.getMessage()})") from error
    except (SAXException, LookupError, ValueError) as error:
        raise Refusal("damaged", f"its part {part} is no XML ({error})") from error
