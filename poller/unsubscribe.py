"""For applications: whose unsubscription is this? What stands for `{token}` in a list's `unsubscribe_url`.

    from poller import unsubscribe

    try:
        who = unsubscribe.verify(token)
    except unsubscribe.BadToken as why:
        return str(why), 400
    ...                                  # who.list, who.address, who.issued_at

Rule 1. A token names one list and one recipient. Nobody makes one without the key, and it is good for nothing else.
Rule 2. The service and the application share the key: `[unsubscribe] key`, `key_file` or `key_command` there; here
        `keys`, or else the very variables that override them, `POLLER__UNSUBSCRIBE__KEY` or
        `POLLER__UNSUBSCRIBE__KEY_FILE`, and `POLLER__UNSUBSCRIBE__OUTBOX` where `[unsubscribe] outbox` is set.
Rule 3. A token that is not good raises `BadToken` (`Malformed`, `Forged`, `Expired`), which is the bringer's fault; a
        key that is missing or too short raises `UnusableKey`, which is yours.

Who holds a token can read the address in it. Standard library only; needs nothing of the service.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from poller.sealed import (
    BadToken,
    Expired,
    Forged,
    Keys,
    Malformed,
    UnusableKey,
    keys_of,
    opened,
    read_keys,
    seal,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BadToken",
    "Expired",
    "Forged",
    "Malformed",
    "Unsubscription",
    "UnusableKey",
    "keys_of",
    "read_keys",
    "sign",
    "verify",
]

PURPOSE = "unsubscribe"
LIST_MOST = 255  # octets of a list's name: its length is one octet
_KEY, _KEY_FILE, _OUTBOX = (f"POLLER__UNSUBSCRIBE__{name}" for name in ("KEY", "KEY_FILE", "OUTBOX"))


class Unsubscription(NamedTuple):
    """Who wants to leave what. `address` is as the row had it; `issued_at`, aware UTC, is when it was first tried."""

    list: str
    address: str
    issued_at: datetime


def sign(list_name: str, address: str, *, keys: Keys | None = None, outbox: str | None = None, at: datetime) -> str:
    """The token of one recipient of one list, for a link of your own. Raises UnusableKey.

    `at` is aware. The same arguments give the same token.
    """
    name = list_name.encode()
    if not 0 < len(name) <= LIST_MOST:
        raise ValueError(f"a list's name has 1 to {LIST_MOST} octets")
    content = bytes([len(name)]) + name + address.encode()
    keys = _keys_from(os.environ) if keys is None else keys
    return seal(content, purpose=PURPOSE, outbox=_outbox(outbox), keys=keys, issued_at=int(at.timestamp()))


def verify(
    token: str,
    *,
    keys: Keys | None = None,
    outbox: str | None = None,
    max_age: timedelta | None = None,
    now: datetime | None = None,
) -> Unsubscription:
    """Whose token this is. Raises BadToken, UnusableKey.

    `keys` come from `read_keys(path)` or `keys_of(text)`. `max_age` counts from the first attempt to send; without it a
    link works as long as its key is kept.
    """
    keys = _keys_from(os.environ) if keys is None else keys
    content, issued_at = opened(token, purpose=PURPOSE, outbox=_outbox(outbox), keys=keys)
    age = (time.time() if now is None else now.timestamp()) - issued_at
    if max_age is not None and age > max_age.total_seconds():
        raise Expired("the link is too old")
    end = content[0] + 1  # the one who could sign it has written it as we do
    return Unsubscription(content[1:end].decode(), content[end:].decode(), datetime.fromtimestamp(issued_at, UTC))


def _outbox(outbox: str | None) -> str:
    return os.environ.get(_OUTBOX, "") if outbox is None else outbox


def _keys_from(environ: Mapping[str, str]) -> Keys:
    if text := environ.get(_KEY):
        try:
            return keys_of(text)
        except UnusableKey as error:
            raise UnusableKey(f"{_KEY} {error}") from None
    if path := environ.get(_KEY_FILE):
        return read_keys(path)
    raise UnusableKey(f"there is no key; set {_KEY_FILE} to the file that [unsubscribe] key_file names, or give keys")
