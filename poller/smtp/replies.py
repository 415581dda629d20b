"""Reading what a relay says: bytes in, replies out (RFC 5321 section 4.2, RFC 2034, RFC 3463).

Rule 1. However the network cuts the bytes, the same replies come out.
Rule 2. What comes in is bounded: the length of a line, the lines of a reply, and what may wait unread.
Rule 3. What comes out is safe to store and to print: ASCII, printable, at most 1,000 characters.

`ReplyReader` gives `RawReply`, the lines as they came, because the answer to EHLO is read line by line;
`RawReply.reply` is the fact to keep. `Features.read` understands the answer to EHLO.

Raises `NotSmtp` for anything that is no SMTP reply; the reader is of no further use then. It judges no reply.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from poller.exchange import Reply
from poller.frozen import dataclass

DONE = 2
"""The class of a reply that says done (RFC 5321 section 4.2.1)."""
GO_ON = 3
"""The class of a reply that waits for more."""
MAX_LINE = 4096
"""Bytes. RFC 5321 4.5.3.1.5 allows 512; providers' explanations run longer, a flood runs for ever."""
MAX_LINES = 256
"""Lines of one reply. The longest EHLO answers seen have about 30."""
MAX_WAITING = 4 * 1024 * 1024
"""Bytes unread: the answers to some 40,000 recipients in one group. More is a relay that does not listen."""
MAX_TEXT = 1000
"""Characters of a reply that are kept."""

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:(-)|[ \t]|(?![0-9]))(.*)", re.DOTALL)
"""Only a hyphen says that more follows. Some servers write "250OK", or a tab."""
_LAST_LINE = {b"%d " % code: code for code in range(200, 600)}
"""The code by the beginning of a reply's last line, faster than by a pattern: there is one for each message that comes
only once, the final reply with the queue id."""
_STATUS = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?=[ \t:]|$)")
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


class NotSmtp(Exception):  # noqa: N818 - named by what was heard
    """The bytes are no SMTP reply; the text says what they were."""


class RawReply(NamedTuple):
    """One reply as it came: the code and each line behind its code, without line end."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def reply(self) -> Reply:
        """The fact to keep."""
        line = self.lines[0]
        if len(self.lines) == 1 and len(line) <= _REMEMBERED_LINE:
            return _remembered_reply(self.code, line)
        return _reply(self.code, self.lines)


_REMEMBERED_LINE = 64
"""Bytes. "2.1.0 Ok" comes a million times; only short lines are remembered, so that a relay cannot fill our memory."""


@lru_cache(maxsize=128)
def _remembered_line(line: bytes) -> RawReply | None:
    """The reply that this line is, if it is a whole one with words."""
    code = _LAST_LINE.get(line[:4])
    return RawReply(code, (line[4:],)) if code else None


@lru_cache(maxsize=128)
def _remembered_reply(code: int, line: bytes) -> Reply:
    return _reply(code, (line,))


def _reply(code: int, lines: tuple[bytes, ...]) -> Reply:
    if len(lines) == 1:
        return _reply_in_one_line(code, lines[0])
    status = next((found[0] for line in lines if (found := _status(code, line))), b"")
    bare = (_without(status, line) for line in lines)
    text = " ".join(filter(None, (printable(line.strip()) for line in bare)))
    return Reply(code=code, status=status.decode("ascii"), text=text[:MAX_TEXT])


def _reply_in_one_line(code: int, line: bytes) -> Reply:
    match = _status(code, line)
    if match is None:
        return Reply(code=code, text=printable(line.strip())[:MAX_TEXT])
    bare = line[match.end() :].lstrip(b" \t:").strip()
    return Reply(code=code, status=match[0].decode("ascii"), text=printable(bare)[:MAX_TEXT])


def _status(code: int, line: bytes) -> re.Match[bytes] | None:
    """The enhanced code at the start of the line, if its class agrees with the reply's (RFC 2034 section 4)."""
    match = _STATUS.match(line)
    return match if match and int(match[1]) == code // 100 else None


def _without(status: bytes, line: bytes) -> bytes:
    """The line without the enhanced code that every line of a reply repeats."""
    match = _STATUS.match(line) if status else None
    return line[len(status) :].lstrip(b" \t:") if match and match[0] == status else line


def printable(data: bytes) -> str:
    r"""ASCII text; each other byte as `\xNN`."""
    if data.isascii() and (text := data.decode("ascii")).isprintable():
        return text
    return _UNPRINTABLE.sub(lambda match: b"\\x%02x" % match[0][0], data).decode("ascii")


class ReplyReader:
    """Takes bytes as they arrive and gives one reply at a time."""

    __slots__ = ("_at", "_bytes", "_code", "_lines")

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0  # read up to here: cutting the bytes at every line would be quadratic
        self._lines: list[bytes] = []
        self._code = 0

    def feed(self, data: bytes) -> None:
        """Keep what arrived. Raises NotSmtp when more waits than any conversation could have asked for."""
        waiting = self._bytes[self._at :]
        self._bytes, self._at = (waiting + data if waiting else data), 0
        if len(self._bytes) > MAX_WAITING:
            raise NotSmtp(f"more than {MAX_WAITING:,} bytes that nobody asked for")

    @property
    def is_empty(self) -> bool:
        """Nothing waits, not even the beginning of a reply."""
        return self._at == len(self._bytes) and not self._lines

    def take(self) -> RawReply | None:
        """The next whole reply, or None until more bytes come. Raises NotSmtp."""
        while self._at < len(self._bytes):
            end = self._bytes.find(b"\n", self._at, self._at + MAX_LINE)
            if end < 0:
                self._check_unfinished(self._bytes[self._at :])
                return None
            line, self._at = self._bytes[self._at : end].removesuffix(b"\r"), end + 1
            whole = _remembered_line(line) if len(line) <= _REMEMBERED_LINE and not self._lines else None
            if (reply := whole or self._add(line)) is not None:
                return reply
        return None

    def _check_unfinished(self, line: bytes) -> None:
        start = line[:3]
        if len(line) >= MAX_LINE:
            raise NotSmtp(f"a line longer than {MAX_LINE} bytes: {_quoted(line)}")
        if start and not (start.isdigit() and b"2" <= start[:1] <= b"5"):
            raise NotSmtp(f"no SMTP reply: {_quoted(line)}")

    def _add(self, line: bytes) -> RawReply | None:
        match = _LINE.fullmatch(line)
        if not match:
            raise NotSmtp(f"no SMTP reply: {_quoted(line)}")
        code = int(match[1])
        if self._lines and code != self._code:
            raise NotSmtp(f"a reply whose lines begin with both {self._code} and {code}")
        self._code = code
        self._lines.append(match[3] or b"")
        if len(self._lines) > MAX_LINES:
            raise NotSmtp(f"a reply of more than {MAX_LINES} lines")
        if match[2] == b"-":
            return None
        lines, self._lines = tuple(self._lines), []
        return RawReply(code, lines)


def _quoted(data: bytes) -> str:
    """Enough of it to recognise an HTTP server or a TLS alert."""
    return f'"{printable(data[:60])}"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What a relay offers, from its answer to EHLO; all absent after HELO."""

    name: str = ""
    """What the relay calls itself."""
    pipelining: bool = False
    size: bool = False
    size_limit: int = 0
    """Bytes; 0 when it names none (RFC 1870)."""
    eight_bit_mime: bool = False
    smtputf8: bool = False
    starttls: bool = False
    auth: frozenset[str] = frozenset()
    chunking: bool = False
    enhanced_status_codes: bool = False
    dsn: bool = False
    keywords: tuple[str, ...] = ()
    """Every keyword offered, upper case, in order."""

    @classmethod
    def read(cls, answer: RawReply) -> Features:
        """Of an answer to EHLO (RFC 5321 section 4.1.1.1)."""
        offered: dict[str, list[str]] = {}
        for line in answer.lines[1:]:
            # "AUTH=LOGIN" is how servers wrote it for clients of the 1990s; some still write only that.
            words = re.sub(r"(?i)^AUTH=", "AUTH ", printable(line)).upper().split()
            if words:
                offered.setdefault(words[0], []).extend(words[1:])
        limit = next(iter(offered.get("SIZE", [])), "")
        return cls(
            name=next(iter(printable(answer.lines[0]).split()), ""),
            pipelining="PIPELINING" in offered,
            size="SIZE" in offered,
            size_limit=int(limit) if limit.isdigit() else 0,
            eight_bit_mime="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            starttls="STARTTLS" in offered,
            auth=frozenset(offered.get("AUTH", [])),
            chunking="CHUNKING" in offered,
            enhanced_status_codes="ENHANCEDSTATUSCODES" in offered,
            dsn="DSN" in offered,
            keywords=tuple(offered),
        )
