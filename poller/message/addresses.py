"""RFC 5322 address lists as applications write them.

Reads display names, quoted strings, comments, encoded words in names, groups, empty list elements; quoted and
non-ASCII local parts (RFC 6531). Local parts keep their case: only their owner knows whether it matters.
Obsolete forms with routes or spaces inside an address are refused, and so is a `;` between addresses.

Raises ValueError in words that quote the offending address and say the remedy.
"""

from __future__ import annotations

import re
from typing import NoReturn

from poller.domains import in_ascii
from poller.frozen import dataclass
from poller.message import words
from poller.message.characters import shown

# What no atom holds: all else is atext, or not ASCII. The other way round each pattern takes milliseconds to compile.
_ATEXT = r"[^\x00-\x20\x7f()<>@,;:\\\".\[\]]"
_DOT_ATOM = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)+"')
_PLAIN = re.compile(r"([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)@([A-Za-z0-9.-]+)")
_NAMED = re.compile(rf"([A-Za-z0-9]+(?: [A-Za-z0-9]+)*) ?<{_PLAIN.pattern}>")
_TOKEN = re.compile(
    rf"""(?P<space>[ \t]+)
    |(?P<encoded>=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=)
    |(?P<quoted>"(?:[^"\\]|\\.)*")
    |(?P<literal>\[[^\[\]\\]*\])
    |(?P<special>[,;:<>@.])
    |(?P<atom>{_ATEXT}+)
    |(?P<comment>\()""",
    re.VERBOSE,
)
_SIMPLE = 1000  # list elements tried the fast way
_LOCAL = 64  # octets, RFC 5321 section 4.5.3.1.1
_PATH = 254  # octets: RFC 5321 section 4.5.3.1.3 allows 256 with the angle brackets


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailbox:
    """One address, valid by construction: `local` is quoted only where it must be; `domain` is ASCII, lower case."""

    name: str
    local: str
    domain: str
    address: str
    """As people read it: the domain in its own script."""
    wire: str
    """What RCPT TO and the headers carry, `local@domain`; ASCII unless the local part is not."""


def parse_one(text: str) -> Mailbox:
    """Exactly one address, with or without a display name."""
    found = parse_list(text)
    if len(found) != 1:
        raise ValueError(f"{shown(text)} holds {len(found)} addresses; exactly one is wanted")
    return found[0]


def parse_list(text: str) -> list[Mailbox]:
    """Every address of the list, groups flattened, in order; none for an empty list or `undisclosed-recipients:;`."""
    found = []
    for element in text.split(",", _SIMPLE):
        element_text = element.strip(" ")
        if match := _PLAIN.fullmatch(element_text):
            found.append(_measured("", match[1], match[2]))
        elif match := _NAMED.fullmatch(element_text):
            found.append(_measured(match[1], match[2], match[3]))
        else:
            return _Reader(text).mailboxes()
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    spaced: bool
    """White space or a comment stands before it."""


class _Reader:
    """Reads one list, token by token, without recursion or backtracking."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0
        self.start = 0
        """Where the address now being read begins: errors quote from here."""

    def mailboxes(self) -> list[Mailbox]:
        """The whole list (RFC 5322 section 3.4, with empty elements from section 4.4)."""
        found: list[Mailbox] = []
        in_group = False
        while (kind := self.kind) != "end":
            self.start = self.tokens[self.at].at
            if kind == ",":
                self.at += 1
            elif kind == ";":
                if not in_group:
                    self.fail("a semicolon does not separate addresses; use a comma")
                in_group = False
                self.at += 1
            elif self.group_opens():
                if in_group:
                    self.fail("a group inside a group; end the first with a semicolon")
                in_group = True
            else:
                found.append(self.mailbox())
                self.expect_separator(in_group=in_group)
        if in_group:
            self.fail("the group has no end; write a semicolon after its last address")
        return found

    @property
    def kind(self) -> str:
        return self.tokens[self.at].kind

    def fail(self, reason: str) -> NoReturn:
        rest = self.text[self.start :].partition(",")[0].strip() or self.text
        raise ValueError(f"{shown(rest)}: {reason}")

    def group_opens(self) -> bool:
        """Step over `name:` if one stands here."""
        ahead = self.at
        while self.tokens[ahead].kind in ("atom", "quoted", "encoded", "."):
            ahead += 1
        if ahead == self.at or self.tokens[ahead].kind != ":":
            return False
        self.at = ahead + 1
        return True

    def mailbox(self) -> Mailbox:
        phrase = self.take("atom", "quoted", "encoded", ".")
        if self.kind == "<":
            self.at += 1
            inner = self.take("atom", "quoted", ".")
            mailbox = self.address(_name(phrase), inner)
            if self.kind != ">":
                self.fail("the closing > is missing, or something stands before it")
            self.at += 1
            return mailbox
        return self.address("", phrase)

    def address(self, name: str, local: list[_Token]) -> Mailbox:
        """`@domain`, after the tokens of its local part."""
        if self.kind != "@":
            self.fail("no @ where one belongs; write name@example.com, or a name and then <name@example.com>")
        at = self.tokens[self.at]
        self.at += 1
        domain = self.take("literal") or self.take("atom", ".")
        if not local or not domain:
            self.fail(f"nothing stands {'after' if local else 'before'} the @")
        if at.spaced or domain[0].spaced or any(token.spaced for token in [*local[1:], *domain[1:]]):
            self.fail("a space inside the address; remove it, put a comma between two addresses, or < > around one")
        try:
            return _mailbox(name, _local(local), "".join(token.text for token in domain))
        except ValueError as error:
            self.fail(str(error))

    def expect_separator(self, *, in_group: bool) -> None:
        if self.kind in (",", "end") or (in_group and self.kind == ";"):
            return
        if self.kind == ";":
            self.fail("a semicolon does not separate addresses; use a comma")
        if self.kind == "<":
            self.fail('a display name that holds an @ stands in double quotes, as in "anna@b.example" <anna@b.example>')
        if self.kind == "@":
            self.fail("a second @; put the part before the last @, or the display name, into double quotes")
        self.fail(f"something follows the address: {shown(self.tokens[self.at].text)}; separate addresses by a comma")

    def take(self, *kinds: str) -> list[_Token]:
        """The run of tokens of these kinds that stands here."""
        begin = self.at
        while self.kind in kinds:
            self.at += 1
        return self.tokens[begin : self.at]


def _tokens(text: str) -> list[_Token]:
    tokens, at, spaced = [], 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        kind = match.lastgroup if match else None
        if match is None or kind is None:
            raise ValueError(f"{shown(text[at:])}: {_stray(text[at])}")
        at = _after_comment(text, at) if kind == "comment" else match.end()
        if kind in ("space", "comment"):
            spaced = True
            continue
        tokens.append(
            _Token(kind=match[0] if kind == "special" else kind, text=match[0], at=match.start(), spaced=spaced)
        )
        spaced = False
    tokens.append(_Token(kind="end", text="", at=len(text), spaced=spaced))
    return tokens


def _stray(char: str) -> str:
    unclosed = {'"': "the closing quote is missing", "[": "the closing bracket is missing"}
    return unclosed.get(char, f"{char} may stand inside double quotes only")


def _after_comment(text: str, start: int) -> int:
    depth, at = 0, start
    while at < len(text):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 2 if text[at] == "\\" else 1
        if depth == 0:
            return at
    raise ValueError(f"{shown(text[start:])}: the comment's closing parenthesis is missing")


def _name(phrase: list[_Token]) -> str:
    """The display name; a space between two encoded words is not part of it (RFC 2047 section 6.2)."""
    name: list[str] = []
    decoded_before = False
    for token in phrase:
        text = _unquoted(token.text) if token.kind == "quoted" else token.text
        decoded = words.decode(next(words.found(text))) if token.kind == "encoded" else None
        if name and token.spaced and not (decoded_before and decoded is not None):
            name.append(" ")
        name.append(text if decoded is None else decoded)
        decoded_before = decoded is not None
    return "".join(name).strip()


def _local(tokens: list[_Token]) -> str:
    if any(token.kind == "encoded" for token in tokens):
        raise ValueError("an encoded word cannot be an address; write the address itself")
    if tokens[0].kind == "quoted" and not tokens[1:]:
        content = _unquoted(tokens[0].text)
        return content if _DOT_ATOM.fullmatch(content) else quoted(content)
    return "".join(token.text for token in tokens)


def quoted(text: str) -> str:
    """The text as a quoted string (RFC 5322 section 3.2.4)."""
    return '"' + re.sub(r"([\"\\])", r"\\\1", text) + '"'


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _mailbox(name: str, local: str, domain: str) -> Mailbox:
    if not (_DOT_ATOM.fullmatch(local) or _QUOTED.fullmatch(local)):
        raise ValueError("a dot too many, or quotes amid the part before the @; put all of it into double quotes")
    if not local.isprintable() or ("=?" in local and any(words.found(local))):
        raise ValueError("the part before the @ holds characters that cannot be part of an address")
    return _measured(name, local, domain)


def _measured(name: str, local: str, domain: str) -> Mailbox:
    """The mailbox of a local part that is well formed."""
    octets = len(local.encode())
    if octets > _LOCAL:
        raise ValueError(f"the part before the @ is longer than {_LOCAL} octets")
    name_in_ascii = in_ascii(domain)
    if octets + 1 + len(name_in_ascii) > _PATH:
        raise ValueError(f"the address is longer than {_PATH} octets")
    wire = f"{local}@{name_in_ascii}"
    address = wire if domain.isascii() else f"{local}@{domain.lower()}"
    return Mailbox(name=name, local=local, domain=name_in_ascii, address=address, wire=wire)
