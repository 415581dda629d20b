"""Pure: whose message it was, by what can't be forged.

Rule 1. A token in the address that the bounce came to, or in its envelope id, names the row. A token that is none of
        ours names nothing, and what else the message says is not believed either.
Rule 2. Without any token a Message-ID of ours may tell: nobody guesses one. Then the outbox must know both it and the
        recipient (`poller.outbox.returned`). What is no Message-ID is not looked for: a database may refuse its
        letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.frozen import dataclass
from poller.message.message_id import valid_message_id
from poller.sealed import BadToken

if TYPE_CHECKING:
    from poller.bounces.read import Returned
    from poller.message.return_path import Marked, ReturnPaths


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """`marked` by a token, or else the Message-IDs to look for; `forged` says why neither is believed."""

    marked: Marked | None = None
    message_ids: tuple[str, ...] = ()
    forged: str = ""


def match(returned: Returned, paths: ReturnPaths) -> Match:
    """Whose message `returned` tells of."""
    tokens = [*paths.tokens_in(returned.sent_to), *([returned.envelope_id] if returned.envelope_id else ())]
    refused = ""
    for token in tokens:
        try:
            return Match(marked=paths.row_of(token))
        except BadToken as why:
            refused = str(why)
    known = tuple(name for name in returned.message_ids if valid_message_id(name))
    return Match(forged=refused) if refused else Match(message_ids=known)
