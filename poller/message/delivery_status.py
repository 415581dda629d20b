"""DSN parameters of a raw message (RFC 3461): kept in the column `dsn` as they were submitted, checked, and said again.

    {"mail": "RET=HDRS ENVID=x", "rcpt": {"a@example.com": "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@example.com"}}

Rule 1. What is said to a relay is of this grammar and nothing else: nobody who writes the column can write a command.

Raises `Unsendable("dsn", ...)`; `parameters` raises ValueError.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from poller.message import addresses
from poller.message.characters import shown
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Mapping

_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
_OF_MAIL = {"RET": re.compile(r"FULL|HDRS", re.IGNORECASE), "ENVID": re.compile(rf"{_XTEXT}{{1,100}}")}
_WHEN = "(?:SUCCESS|FAILURE|DELAY)"
_OF_RCPT = {
    "NOTIFY": re.compile(rf"NEVER|{_WHEN}(?:,{_WHEN}){{0,2}}", re.IGNORECASE),
    "ORCPT": re.compile(rf"[A-Za-z0-9-]{{1,40}};{_XTEXT}{{1,500}}"),
}
MAIL, RCPT = "mail", "rcpt"
_GRAMMAR = {MAIL: _OF_MAIL, RCPT: _OF_RCPT}


def parameters(command: str, text: str) -> str:
    """The parameters as they may be said with `command`, "mail" or "rcpt". Raises ValueError."""
    said: dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        name = name.upper()
        grammar = _GRAMMAR[command].get(name)
        if grammar is None or name in said or not grammar.fullmatch(value):
            raise ValueError(f"{shown(word)} is no DSN parameter of {command.upper()} (RFC 3461)")
        said[name] = value
    return " ".join(f"{name}={value}" for name, value in said.items())


def wire_parameters(dsn: object) -> Mapping[str, str] | None:
    """What is said with MAIL (under ""), and with RCPT of each wire address. Raises Unsendable."""
    if dsn is None:
        return None
    try:
        return _wire_parameters(dsn)
    except ValueError as error:
        raise Unsendable("dsn", f"{error}; correct it, or leave it out") from None


def _wire_parameters(dsn: object) -> Mapping[str, str]:
    if not isinstance(dsn, dict) or not isinstance(rcpt := dsn.get(RCPT, {}), dict) or dsn.keys() - {MAIL, RCPT}:
        raise ValueError('not of the form {"mail": "RET=HDRS", "rcpt": {"a@example.com": "NOTIFY=NEVER"}}')
    said = {addresses.parse_one(to).wire: parameters(RCPT, str(text)) for to, text in rcpt.items()}
    return said | {"": parameters(MAIL, str(dsn.get(MAIL, "")))}
