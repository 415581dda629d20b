"""What a template gave, on its way into a column and back; and whether it still belongs to its row.

It travels as zlib of JSON in ASCII: no database, whatever its encoding, changes or refuses a character of it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from poller.message.templates import Rendered

if TYPE_CHECKING:
    from collections.abc import Mapping

_MADE_OF = ("template", "context", "locale", "subject", "list")
_FAST = 1  # zlib's level


def pack(rendered: Rendered) -> bytes:
    """As it is kept."""
    return zlib.compress(json.dumps([rendered.subject, rendered.text, rendered.html]).encode(), _FAST)


def unpack(packed: bytes) -> Rendered | None:
    """As it was rendered; None where this is nothing that `pack` has made."""
    try:
        subject, text, html = json.loads(zlib.decompress(packed))
    except (zlib.error, ValueError, TypeError):
        return None
    return Rendered(subject=subject, text=text, html=html)


def made_of(row: Mapping[str, Any], reader: str | None) -> str:
    """A hash of what a rendering is made of: it is another once a person has corrected one of these columns.

    And for another `reader`, where the message is not for all recipients alike: a link in it may be theirs alone.
    """
    columns = [*(row.get(name) for name in _MADE_OF), reader]
    return hashlib.sha256(json.dumps(columns, sort_keys=True, default=str).encode()).hexdigest()
