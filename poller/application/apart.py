"""An `email.message.EmailMessage` taken apart into the columns of a row, truthfully or not at all.

Rule 1. What is kept: the bodies, text and HTML; files and the images that the HTML names, byte by byte, with their
        names, types and content ids; every address; every other field as an extra header, in its order.
Rule 2. What the poller writes anew: Date, MIME-Version, boundaries, transfer encodings, and the character set, which is
        UTF-8 whatever it was.
Rule 3. What would arrive as something else is refused, in words: another structure (`multipart/signed`, a report, a
        second text), an alternative that stands before the HTML, `format=flowed`, a part with fields of its own.

Raises Unsendable: `column` is the one that can't hold it.
"""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, NoReturn

from poller.frozen import dataclass
from poller.message.characters import shown
from poller.message.draft import Attachment, Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message

_LISTS = {"to": "recipients", "cc": "cc", "bcc": "bcc", "reply-to": "reply_to", "from": "sender"}
_TEXTS = {"subject": "subject", "message-id": "message_id"}
_ANEW = frozenset({"date", "mime-version", "content-type", "content-transfer-encoding", "content-disposition"})
_OF_PARTS = frozenset({*_ANEW, "content-id"})
_OF_ALTERNATIVES = frozenset({"text/plain", "text/html", "multipart/related"})
_BODIES = {"text/plain": "body_text", "text/html": "body_html"}
_MESSAGES = frozenset({"message/rfc822", "message/global"})
_UNTOUCHED = {
    "multipart/signed": "its signature covers bytes that are written anew here",
    "multipart/encrypted": "only its own parts make sense of it",
    "multipart/report": "it is a report that a mail server makes",
}


@dataclass(frozen=True, slots=True)
class _Parts:
    """What was found on the way through the structure."""

    bodies: dict[str, str]
    files: list[Attachment]
    shown: list[tuple[str, Attachment]]
    """Inline parts by the id that HTML has to name."""


def taken_apart(message: Message) -> dict[str, Any]:
    """The columns, and `attachments`."""
    whole = _modern(message)
    parts = _Parts({}, [], [])
    _walk(whole, parts)
    html = parts.bodies.get("body_html", "")
    for name, file in parts.shown:
        if f"cid:{name}" not in html:
            _refuse(f"the inline part {shown(file.name or name)} is named by no HTML; make it an attachment")
    columns = _fields(whole) | parts.bodies
    if not parts.bodies:
        columns["body_text"] = ""
    return columns | {"attachments": (*(file for _, file in parts.shown), *parts.files)}


def _refuse(reason: str, column: str = "attachments") -> NoReturn:
    raise Unsendable(column, f"the message can't be kept as it is: {reason}")


# ---- fields


def _fields(message: EmailMessage) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    for name, value in message.items():
        lower, text = name.lower(), _unfolded(value)
        if column := _LISTS.get(lower) or _TEXTS.get(lower):
            if column in columns:
                _refuse(f"it has two {name} fields; make one of them", column)
            if text.strip():
                columns[column] = text
        elif lower not in _ANEW:
            _add_header(headers, name, text)
    return columns | ({"headers": headers} if headers else {})


def _unfolded(value: Any) -> str:
    return "".join(str(value).splitlines())


def _add_header(headers: dict[str, Any], name: str, text: str) -> None:
    known = next((other for other in headers if other.lower() == name.lower()), None)
    if known is None:
        headers[name] = text
    elif isinstance(headers[known], list):
        headers[known].append(text)
    else:
        headers[known] = [headers[known], text]


# ---- structure


def _walk(message: EmailMessage, parts: _Parts) -> None:
    """The whole: `mixed(body, files)`, or a body alone, or a file alone."""
    _require_readable(message)
    if message.get_content_type() != "multipart/mixed":
        _take(message, parts)
        return
    for place, part in enumerate(_children(message)):
        is_body = part.get_content_disposition() is None and not part.get_filename()
        if place == 0 and is_body:
            _take(part, parts)
        elif part.is_multipart() and part.get_content_type() not in _MESSAGES:
            _refuse_structure(part)
        elif is_body and part.get_content_maintype() == "text":
            _refuse(f"a second text ({part.get_content_type()}) stands after the first; make it an attachment")
        else:
            _take_file(part, parts)


def _take(part: EmailMessage, parts: _Parts) -> None:
    """A body of any shape."""
    kind = part.get_content_type()
    if part.get_content_disposition() != "attachment" and kind in _BODIES and not part.get_filename():
        _take_text(part, parts)
    elif taker := _SHAPES.get(kind):
        taker(part, parts)
    elif part.is_multipart() and kind not in _MESSAGES:
        _refuse_structure(part)
    else:
        _take_file(part, parts)


def _take_alternative(part: EmailMessage, parts: _Parts) -> None:
    """Text, HTML, then what some programs know better: the preferred one stands last (RFC 2046 section 5.1.4)."""
    children = _children(part)
    kinds = [child.get_content_type() for child in children]
    others = [child for child, kind in zip(children, kinds, strict=True) if kind not in _OF_ALTERNATIVES]
    if children[len(children) - len(others) :] != others:
        _refuse(f"an alternative of type {others[0].get_content_type()} stands before text or HTML", "body_html")
    if "text/plain" in kinds[1:]:
        _refuse("its plain text is the preferred alternative; put it before the HTML", "body_text")
    for child in children:
        if child.get_content_disposition() == "attachment" or (child in others and child.get_filename()):
            _refuse(f"an alternative of type {child.get_content_type()} that is a file too")
        if child not in others:
            _take(child, parts)
        elif child.is_multipart():
            _refuse_structure(child)
        else:
            parts.files.append(_file(child, is_alternative=True))


def _take_related(part: EmailMessage, parts: _Parts) -> None:
    """HTML, or alternatives with HTML among them, and what the HTML shows."""
    first, *others = _children(part) or [part]
    if first.get_content_type() not in {"text/html", "multipart/alternative"}:
        _refuse(f"a multipart/related that begins with {first.get_content_type()} and not with HTML", "body_html")
    _take(first, parts)
    for other in others:
        if other.is_multipart() and other.get_content_type() not in _MESSAGES:
            _refuse_structure(other)
        _take_file(other, parts, is_inline=True)


_SHAPES: dict[str, Callable[[EmailMessage, _Parts], None]] = {
    "multipart/alternative": _take_alternative,
    "multipart/related": _take_related,
}


def _refuse_structure(part: EmailMessage) -> NoReturn:
    kind = part.get_content_type()
    _refuse(f"it holds a {kind}; {_UNTOUCHED.get(kind, 'that structure would be lost')}")


def _children(part: EmailMessage) -> list[EmailMessage]:
    found = [_modern(child) for child in part.iter_parts()]
    for child in found:
        _require_readable(child)
        own = next((name for name in child if name.lower() not in _OF_PARTS), None)
        if own is not None:
            _refuse(f"a part has the field {own} of its own, which would be lost")
    return found


def _modern(message: Message) -> EmailMessage:
    """As the class that knows its parts; a message of the older class is read anew."""
    if isinstance(message, EmailMessage):
        return message
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def _require_readable(part: EmailMessage) -> None:
    if part.defects:
        _refuse(f"it is broken: {type(part.defects[0]).__name__}", "body_text")


# ---- leaves


def _take_text(part: EmailMessage, parts: _Parts) -> None:
    column = _BODIES[part.get_content_type()]
    if column in parts.bodies:
        _refuse(f"two bodies of type {part.get_content_type()}", column)
    lost = [name for name in _parameters(part) if name != "charset"]
    if lost:
        _refuse(f"{part.get_content_type()} has the parameter {lost[0]}, which would be lost", column)
    try:
        parts.bodies[column] = str(part.get_content(errors="strict")).replace("\r\n", "\n")
    except (LookupError, UnicodeError) as error:
        _refuse(f"its text can't be read: {error}", column)


def _take_file(part: EmailMessage, parts: _Parts, *, is_inline: bool = False) -> None:
    file = _file(part)
    if is_inline or part.get_content_disposition() == "inline":
        parts.shown.append((file.content_id or "\0", file))
    else:
        parts.files.append(file)


def _file(part: EmailMessage, *, is_alternative: bool = False) -> Attachment:
    return Attachment(
        name=part.get_filename() or "",
        content=_content(part),
        content_type=_type(part),
        content_id=str(part.get("content-id") or "").strip().strip("<>") or None,
        is_alternative=is_alternative,
    )


def _content(part: EmailMessage) -> bytes:
    if part.get_content_type() not in _MESSAGES:
        return part.get_payload(decode=True) or b""  # type: ignore[return-value] # no multipart comes here
    (inner,) = part.iter_parts()
    return inner.as_bytes(policy=inner.policy.clone(linesep="\r\n"))


def _type(part: EmailMessage) -> str:
    kept = {name: value for name, value in _parameters(part).items() if name != "name"}
    return "; ".join([part.get_content_type(), *(f'{name}="{value}"' for name, value in kept.items())])


def _parameters(part: EmailMessage) -> dict[str, str]:
    header = part.get("content-type")
    return dict(getattr(header, "params", {}))
