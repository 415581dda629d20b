"""What a Message-ID is (RFC 5322 section 3.6.4): `<left@right>`."""

from __future__ import annotations

import re

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MESSAGE_ID = re.compile(rf"<{_ATEXT}(?:\.{_ATEXT})*@(?:{_ATEXT}(?:\.{_ATEXT})*|\[[!-Z^-~]+\])>")
MESSAGE_ID_MOST = 250  # characters: with its name it stays well within a line, and within an index of any database


def valid_message_id(text: str) -> bool:
    """Whether the text is `<left@right>` as RFC 5322 section 3.6.4 has it, in ASCII, 250 characters at most."""
    return len(text) <= MESSAGE_ID_MOST and _MESSAGE_ID.fullmatch(text) is not None and "=?" not in text
