"""What /usr/sbin/sendmail is told on its command line, by programs that were written for Sendmail, Postfix or Exim.

Rule 1. What says from whom, to whom and how the message is read is obeyed: -t -f -r -F -i -N -R -V, and addresses.
Rule 2. What tunes a mail server that is not here is read and ignored: -oem, -B8BITMIME, -O…, -q, …
Rule 3. What asks for another program is told apart (`Mode`). A flag that nobody knows is an error: its value would be
        taken for a recipient.

Raises ValueError for a command line that can't be read.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUED: Final = frozenset("ABCdFfhLNOopRrVX")
"""Flags with a value, in the same word or in the next one; but for `_IN_ONE_WORD`."""
_IN_ONE_WORD: Final = frozenset("ABbdeoqp")
"""Flags whose value is in the same word, or nowhere."""
_PLAIN: Final = frozenset("GimnstUvx")


class Mode(Enum):
    """What the program is to be."""

    SUBMIT = auto()
    QUEUE = auto()
    """`mailq`, or -bp: what waits."""
    NOTHING = auto()
    """`newaliases`, or a run of the queue: there is nothing to do."""


_MODES: Final = {"m": Mode.SUBMIT, "p": Mode.QUEUE, "i": Mode.NOTHING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """As told. `sender` None: not told; "" is the null reverse-path."""

    mode: Mode = Mode.SUBMIT
    recipients: tuple[str, ...] = ()
    from_header: bool = False
    """-t: To, Cc and Bcc say to whom, beside `recipients`."""
    dot_ends: bool = True
    """Without -i a line with nothing but a dot ends the message."""
    sender: str | None = None
    full_name: str | None = None
    notify: str = ""
    ret: str = ""
    envid: str = ""


def read(words: Sequence[str]) -> Arguments:
    """What they mean. Raises ValueError."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        _take(word[1:], rest, found)
    if (mode := found.get("b", "m")[:1]) not in _MODES:
        raise ValueError(f"-b{mode} is not offered; for SMTP set [submission] listen and run: poller listen")
    runs_queue = "q" in found and not rest and "t" not in found
    return Arguments(
        mode=Mode.NOTHING if runs_queue else _MODES[mode],
        recipients=tuple(rest),
        from_header="t" in found,
        dot_ends="i" not in found,
        sender=None
        if (sender := found.get("f", found.get("r"))) is None
        else sender.strip().removeprefix("<").removesuffix(">"),
        full_name=found.get("F"),
        notify=found.get("N", ""),
        ret=found.get("R", ""),
        envid=found.get("V", ""),
    )


def _take(letters: str, rest: list[str], found: dict[str, str]) -> None:
    """One word of flags: -ti is -t -i, and -fme@x is -f me@x."""
    while letters:
        flag, letters = letters[0], letters[1:]
        if flag in _IN_ONE_WORD:
            value, letters = letters, ""
            if flag == "o" and value.startswith("i"):
                found["i"] = ""
            found[flag] = value
        elif flag in _VALUED:
            if not letters and not rest:
                raise ValueError(f"-{flag} needs a value")
            found[flag], letters = letters or rest.pop(0), ""
        elif flag in _PLAIN:
            found[flag] = ""
        else:
            raise ValueError(f"-{flag} is no flag of sendmail")


def until_dot(message: bytes) -> bytes:
    """The message as it is read without -i."""
    lines = message.splitlines(keepends=True)
    end = next((at for at, line in enumerate(lines) if line.rstrip(b"\r\n") == b"."), None)
    return message if end is None else b"".join(lines[:end])
