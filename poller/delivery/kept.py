"""Content that stays what it was: what a row was rendered to when it was first tried, and what was sent.

A row that is tried again is made of what its template gave the first time, whatever the template says now; unless a
person has corrected the row meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.judgement.keeping import Kept, keeping
from poller.message.rendering import made_of, pack, unpack
from poller.statuses import TERMINAL

if TYPE_CHECKING:
    from poller.delivery.prepare import Prepared
    from poller.judgement.keeping import KeepSent
    from poller.message.templates import Rendered
    from poller.outbox.rows import ClaimedRow


def rendering_of(row: ClaimedRow, reader: str | None) -> Rendered | None:
    """What the row was rendered to before for this reader, if that is kept and the row is what it was."""
    if row.kept is None or row.kept.rendered is None or row.kept.made_of != made_of(row.content, reader):
        return None
    return unpack(row.kept.rendered)


def kept_after(prepared: Prepared, status: str, keep_sent: KeepSent, *, is_accepted: bool) -> Kept | None:
    """What is to be kept of a row that is `status` now; None: nothing changes."""
    row, message = prepared.row, prepared.message
    if prepared.rendered is None and row.kept is None and (keep_sent == "none" or not is_accepted):
        return None
    return keeping(
        status,
        before=row.kept,
        rendered=None if status in TERMINAL else _rendered(prepared),
        accepted=message.content if is_accepted and message is not None and message.content else None,
        keep_sent=keep_sent,
    )


def _rendered(prepared: Prepared) -> Kept | None:
    """As it is kept already, or packed."""
    row = prepared.row
    if prepared.rendered is None:
        return row.kept
    digest = made_of(row.content, prepared.reader)
    if row.kept is not None and row.kept.made_of == digest:
        return row.kept
    return Kept(rendered=pack(prepared.rendered), made_of=digest)
