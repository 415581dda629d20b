r"""The conversation with a relay, without I/O: what to say next, given what was answered.

Each conversation is a generator of actions (`poller.smtp.actions`). So it can be driven by a socket
(`poller.smtp.connection`) or by a table in a test. Four kinds of mail transactions, by the session's gear
(`poller.smtp.gears`):

    off          lock-step               poller.smtp.overlap
    transaction  two round trips each    poller.smtp.overlap
    overlap      one round trip each     poller.smtp.overlap
    window       several in flight       poller.smtp.window

Rule 1. `Session.flight` holds what was begun and not yet reported, in order. `next_exchange` reports the first of it:
        as soon as its final reply is read, and without waiting for anything else.
Rule 2. A message is begun ahead only where that saves a wait, and the caller's `take` may always say none: then what is
        in hand goes alone at once.
Rule 3. `Committing` comes immediately before the bytes that hold the end of data, and only then. The end of data is
        deemed sent when the line has taken its last byte; a line that breaks before delivered nothing.
Rule 4. `meanwhile` is called when the end of data is out and the final reply is to be waited for: what is done there
        costs no time on the wire. It begins nothing, and must not raise: all that is in flight would be in doubt.
Rule 5. When the session is over, each further step reports the next of the flight, without waiting: with the replies
        that had come, if they can be believed, else with a loss.

`next_exchange` raises only what a hook raises: whatever else happened is in the `Exchange`. Login and greeting are in
`poller.smtp.opening`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from poller.exchange import Phase
from poller.smtp.actions import Await, Send, nothing_meanwhile
from poller.smtp.gears import Gear
from poller.smtp.overlap import next_by_data
from poller.smtp.window import next_by_bdat

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.exchange import Exchange, Message
    from poller.smtp.actions import Talk
    from poller.smtp.transaction import Session


def none_ahead() -> Message | None:
    """Nothing is begun ahead."""
    return None


def next_exchange(
    session: Session,
    take: Callable[[], Message | None] = none_ahead,
    clock: Callable[[], float] = time.monotonic,
    meanwhile: Callable[[], None] = nothing_meanwhile,
) -> Talk[Exchange | None]:
    """Bring the first of the flight, which must not be empty, to its end.

    None: nothing of it was sent, for a hook raised; what it raised is in `Session.trouble`.
    """
    if session.gear is Gear.WINDOW:
        return next_by_bdat(session, take, clock, meanwhile)
    return next_by_data(session, take, clock, meanwhile)


def quit_session() -> Talk[None]:
    """Take leave. Raises LineLost."""
    yield Send(Phase.QUIT, b"QUIT\r\n")
    yield Await(Phase.QUIT)
