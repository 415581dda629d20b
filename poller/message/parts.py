"""MIME parts (RFC 2045, 2046, 2183, 2387): every byte in seven bits, lines of CRLF only.

Rule 1. Text is `7bit` when it is plain ASCII with lines a relay passes on unharmed; else quoted-printable or base64,
        as is shorter. A line that begins with `From ` is never left for an mbox to alter. Dots are the wire's affair.
Rule 2. A file's bytes arrive as they are: base64, text files too.
Rule 3. A message inside a message may not be base64 (RFC 2046 section 5.2.1). It goes as it is, line ends made CRLF,
        when it is seven-bit; else as `application/octet-stream`, which every client can save and open.
Rule 4. Boundaries contain `=_`, which neither base64 nor quoted-printable can, and are a hash of everything that is
        written in clear. The same message is the same bytes.

Raises `Unsendable("attachments", …)` for a type, a name or a content id that cannot be written.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import re
from dataclasses import field
from typing import TYPE_CHECKING

from poller.frozen import dataclass
from poller.message import characters, fields, words
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poller.message.draft import Attachment

_CLEAR = bytes([9, 10, 13, *range(32, 127)])
_CLEAR_IN_QP = _CLEAR.replace(b"=", b"")
# A line of 76 that ends in a space, or begins with From, is written longer; RFC 2045 section 6.7 (5) allows 76.
_OVERLONG = re.compile(rb"^([^\r\n]{70,72}[^\r\n=][^\r\n=])(?=[^\r\n]{3,}\r$)", re.MULTILINE)
_BLOCK = 57 * 1024  # bytes encoded at a time: 57 make a line of 76, and a block costs little memory
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,127}"  # noqa: S105 - RFC 2045's grammar, no secret
_TYPE = re.compile(rf'({_TOKEN}/{_TOKEN})((?: *; *{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]{{0,200}}"))*) *;?')
_PARAMETER = re.compile(rf'({_TOKEN})=({_TOKEN}|"[^"]*")')
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,250}")


class Base64:
    """A file's bytes in base64, made when they are written: a large one would be in memory twice otherwise."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __len__(self) -> int:
        """Octets, line ends included."""
        letters = (len(self._content) + 2) // 3 * 4
        return letters + 2 * ((letters + 75) // 76)

    def __bytes__(self) -> bytes:
        """All of it."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        """Whole lines."""
        view = memoryview(self._content)
        for start in range(0, len(view), _BLOCK):
            letters = binascii.b2a_base64(view[start : start + _BLOCK], newline=False)
            lines = [letters[at : at + 76] for at in range(0, len(letters), 76)]
            lines.append(b"")
            yield b"\r\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A MIME entity: its header fields without the last CRLF, and its body in pieces."""

    header: str
    body: Sequence[bytes | Base64] = field(repr=False)
    clear: bool = False
    """The body is not encoded: boundaries must be sure not to occur in it."""


def text_part(subtype: str, data: bytes) -> Part:
    """`text/plain` or `text/html`; the text has CRLF line ends (see `characters.body_bytes`)."""
    charset = "us-ascii" if data.isascii() else "utf-8"
    encoding, body = _encoded(data)
    header = f"Content-Type: text/{subtype}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}"
    return Part(header=header, body=(body,), clear=encoding == "7bit")


def attachment_part(attachment: Attachment, *, inline: bool) -> Part:
    """A file, or a part that the HTML shows."""
    name = characters.header_text("attachments", attachment.name).strip()
    media, given = _media_type(attachment)
    if attachment.is_alternative and media.startswith("text/") and not any("charset=" in p.lower() for p in given):
        given = [*given, "charset=utf-8"]
    body: bytes | Base64 = Base64(attachment.content)
    encoding = "base64"
    if media.startswith("message/"):
        clear = _clear_message(attachment.content)
        if clear is None:
            media, given = "application/octet-stream", []
        else:
            body, encoding = clear, "7bit"
    if name:
        given = [*given, f'name="{words.in_ascii(name)}"']
    disposition = "inline" if inline else "attachment"
    lines = [
        f"Content-Type: {fields.parameters(media, given)}",
        f"Content-Transfer-Encoding: {encoding}",
    ]
    if not attachment.is_alternative:  # with one, some programs offer a file in place of the buttons
        filename = words.parameter("filename", name) if name else []
        lines.append(f"Content-Disposition: {fields.parameters(disposition, filename)}")
    if attachment.content_id is not None:
        lines.append(f"Content-ID: <{content_id(attachment)}>")
    return Part(header="\r\n".join(lines), body=(body,), clear=encoding == "7bit")


def content_id(attachment: Attachment) -> str:
    """What stands between the angle brackets of Content-ID and after `cid:` in HTML; "" for a plain attachment."""
    if attachment.content_id is None:
        return ""
    bare = attachment.content_id.removeprefix("<").removesuffix(">")
    if not _CONTENT_ID.fullmatch(bare):
        reason = f"{characters.shown(attachment.content_id)} cannot be a content id; use ASCII letters and digits"
        raise Unsendable("attachments", reason)
    return bare


def refuse_repeated_ids(attachments: Sequence[Attachment]) -> None:
    """HTML could not say which of two parts it means."""
    seen = set()
    for attachment in attachments:
        if (bare := content_id(attachment)) in seen:
            raise Unsendable("attachments", f"two have the content id {characters.shown(bare)}; rename one")
        seen.update([bare] if bare else [])


def multipart(subtype: str, boundary: str, parts: Sequence[Part]) -> Part:
    """Several parts as one. `boundary` must not occur in them: see `boundaries`."""
    root = '; type="text/html"' if subtype == "related" else ""
    pieces: list[bytes | Base64] = []
    for part in parts:
        pieces.append(f"--{boundary}\r\n{part.header}\r\n\r\n".encode("ascii"))
        pieces.extend(part.body)
        pieces.append(b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode("ascii"))
    return Part(header=f'Content-Type: multipart/{subtype}{root};\r\n boundary="{boundary}"', body=pieces)


def written(head: bytes, body: Sequence[bytes | Base64]) -> bytes:
    """Head and body as one: the only copy that there ever is of a large file's base64."""
    plain = [piece for piece in body if isinstance(piece, bytes)]
    if len(plain) == len(body):
        return b"".join((head, *plain))
    whole = io.BytesIO()
    whole.seek(len(head) + sum(map(len, body)) - 1)
    whole.write(b"\0")  # takes the room at once: growing by and by would copy it
    whole.seek(0)
    whole.write(head)
    for piece in body:
        whole.writelines(piece if isinstance(piece, Base64) else (piece,))
    return whole.getvalue()


def boundary_seed(message_id: str, parts: Sequence[Part]) -> str:
    """What no part can contain: a hash over the message's name and all that is written in clear."""
    digest = hashlib.blake2b(message_id.encode(), digest_size=12)
    for part in parts:
        for piece in part.body if part.clear else ():
            digest.update(bytes(piece))
    return digest.hexdigest()


def _encoded(data: bytes) -> tuple[str, bytes]:
    """The transfer encoding of a text, and the text in it."""
    if not data.translate(None, _CLEAR) and not _has_from(data) and _lines_fit(data):
        return "7bit", data
    escapes = len(data.translate(None, _CLEAR_IN_QP))
    if 6 * escapes > len(data):  # two more bytes for each, against a third more for all
        return "base64", bytes(Base64(data))
    quoted = binascii.b2a_qp(data, istext=True)
    if _has_from(quoted):
        quoted = b"\n".join(_without_from(line) for line in quoted.split(b"\n"))
    if b"=20\r\n" in quoted or b"=09\r\n" in quoted or b"=46rom " in quoted:
        quoted = _OVERLONG.sub(rb"\1=\r\n", quoted)
    return "quoted-printable", quoted


def _has_from(data: bytes) -> bool:
    # Many texts have no F at all, and a letter is found several times faster than a word.
    return b"F" in data and (data.startswith(b"From ") or b"\nFrom " in data)


def _without_from(line: bytes) -> bytes:
    return b"=46" + line[1:] if line.startswith(b"From ") else line


def _clear_message(content: bytes) -> bytes | None:
    """The content with CRLF line ends if it can travel in seven bits as it is."""
    if content.translate(None, _CLEAR):
        return None
    data = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return data if _lines_fit(data) else None


def _lines_fit(data: bytes) -> bool:
    """Whether no line is longer than fields.LONGEST; from line end to line end, over as many lines as fit."""
    begin, last = 0, len(data) - fields.LONGEST
    while begin < last:
        end = data.rfind(b"\r\n", begin, begin + fields.LONGEST + 2)
        if end < 0:
            return False
        begin = end + 2
    return True


def _media_type(attachment: Attachment) -> tuple[str, list[str]]:
    """The type in lower case and its parameters, without a name: ours follows."""
    match = _TYPE.fullmatch(attachment.content_type.strip(" "))
    if not match or match[1].lower().startswith("multipart/"):
        reason = f"{characters.shown(attachment.content_type)} cannot be the type of a file"
        raise Unsendable("attachments", f"{reason}; write it like application/pdf, or application/octet-stream")
    given = [(name, value) for name, value in _PARAMETER.findall(match[2]) if name.lower() not in ("name", "boundary")]
    return match[1].lower(), [f"{name}={value}" for name, value in given]
