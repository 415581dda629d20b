"""Pure: a claimed row on its way to the wire: who is asked now, who is settled without, and the message.

Rule 1. Composing is pure, so whatever it raises is a property of the row: it surfaces as `Unsendable`, and nothing else
        is caught as broadly anywhere.
Rule 2. Recipients that are settled are never asked again; those asked least often come first (of those whose
        destination only put them off, who was never answered), as many as one transaction takes; a single one where
        each has a message of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from poller.delivery.kept import rendering_of
from poller.exchange import Message
from poller.frozen import dataclass
from poller.judgement.outcome import Expired, Suppressed
from poller.judgement.retry import RecipientState, Standing
from poller.message.draft import Draft, Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import datetime

    from poller.judgement.outcome import Outcome
    from poller.message.composer import Composer
    from poller.message.draft import Attachment, Composed, Recipient
    from poller.message.templates import Rendered
    from poller.outbox.rows import ClaimedRow

T = TypeVar("T")

MOST_APART = 100
"""Recipients of a row each of whom has a message of their own: the row is claimed anew for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A row and what is to be done with it.

    `settled` are outcomes of recipients to whom nothing may be sent; `wire` the addresses of this transaction, each
    with the recipients behind it; `message` is None when nobody is left to send to. `others` are the addresses of those
    who might go now as well, if each had not a message of their own.
    """

    row: ClaimedRow
    standing: Standing
    settled: Mapping[str, Outcome]
    wire: Mapping[str, tuple[str, ...]]
    message: Message | None
    others: tuple[str, ...] = ()
    rendered: Rendered | None = None
    """What its template gave for this message, now or before."""
    reader: str | None = None
    """Who the message is for, if not for all alike."""


def prepare(
    row: ClaimedRow,
    attachments: tuple[Attachment, ...],
    *,
    composer: Composer,
    suppressed: Mapping[tuple[str, str], str],
    now: datetime,
    at_once: int,
    relays: Collection[str],
    not_now: Collection[str] = (),
    raw: tuple[bytes | None, object] = (None, None),
) -> Prepared:
    """`suppressed` has a reason by list ("": all mail) and address; `at_once` recipients fit one transaction.

    Raises Unsendable. Recipients whose wire address is in `not_now` stay open. `raw` is a whole message and its DSN
    parameters.
    """
    _require_relay(row, relays)
    draft = _draft(row, attachments, raw)
    recipients = _purely(composer.recipients, draft)
    standing = standing_of(row, [recipient.address for recipient in recipients])
    open_ones = {state.address: state for state in standing.recipients if state.status == "queued"}
    settled = _without_sending(row, recipients, open_ones, suppressed, now)
    may_go = [r for r in recipients if r.address in open_ones and r.address not in settled and r.wire not in not_now]
    wire = _wire(may_go, open_ones, at_once)
    reader: str | None = None
    others: tuple[str, ...] = ()
    is_apart: bool = _purely(composer.writes_apart, draft)
    if wire and is_apart:
        _require_a_few(recipients)
        address, (reader, *_) = next(iter(wire.items()))
        wire, others = {address: (reader,)}, tuple([r.wire for r in may_go])
    composed = _composed(row, draft, composer, reader) if wire else None
    return Prepared(
        row=row,
        standing=standing,
        settled=settled,
        wire=wire,
        message=_message(row, composed, tuple(wire)) if composed else None,
        others=others,
        rendered=composed.rendered if composed else None,
        reader=reader,
    )


def _require_relay(row: ClaimedRow, relays: Collection[str]) -> None:
    if row.relay is not None and row.relay not in relays:
        known = ", ".join(sorted(relays))
        raise Unsendable("relay", f"there is no relay {row.relay!r}; name one of {known}, or none, then: poller retry")


def _composed(row: ClaimedRow, draft: Draft, composer: Composer, reader: str | None) -> Composed:
    if row.kept is not None:
        draft = replace(draft, rendered=rendering_of(row, reader))
    return _purely(lambda whole: composer.compose(whole, reader), draft)


def recipients_of(row: ClaimedRow, composer: Composer) -> tuple[Recipient, ...]:
    """The row's recipients. Raises Unsendable."""
    return _purely(composer.recipients, _draft(row, ()))


def prepared_again(row: ClaimedRow, message: Message, composer: Composer) -> Prepared:
    """A row whose message had been on its way in an earlier life, to find its outcome now."""
    try:
        recipients = [(recipient.address, recipient.wire) for recipient in recipients_of(row, composer)]
    except Unsendable:  # it was readable when it was sent
        recipients = []
    behind = {w: tuple(address for address, wire in recipients if wire == w) or (w,) for w in message.recipients}
    addresses = [address for address, _ in recipients]
    missing = [address for found in behind.values() for address in found if address not in addresses]
    standing = standing_of(row, [*addresses, *missing])
    return Prepared(row=row, standing=standing, settled={}, wire=behind, message=message)


def standing_of(row: ClaimedRow, addresses: Iterable[str]) -> Standing:
    """Where the row stands. Without `addresses` (its lists can't be read) what is written down of it."""
    addresses = [*addresses] or [*row.known]
    if len(addresses) > 1:
        states = [row.known.get(address) or RecipientState(address=address) for address in addresses]
    else:
        alone = addresses[0] if addresses else row.content.get("recipients") or "?"
        fresh = RecipientState(address=alone, attempts=row.attempts, doubts=row.doubts)
        states = [row.known.get(alone, fresh)]
    return Standing(
        row_id=row.id,
        claim_seq=row.claim_seq,
        message_id=row.message_id,
        attempts=row.attempts,
        doubts=row.doubts,
        setbacks=row.setbacks,
        first_attempt_at=row.first_attempt_at,
        expires_at=row.expires_at,
        max_attempts=row.max_attempts,
        on_doubt=row.on_doubt,
        recipients=tuple(states),
        written=row.known,
    )


def _purely(compose: Callable[[Draft], T], draft: Draft) -> T:
    try:
        return compose(draft)
    except Unsendable:
        raise
    except Exception as reason:
        raise Unsendable("composing", f"failed with {type(reason).__name__}: {reason}") from reason


def _draft(
    row: ClaimedRow, attachments: tuple[Attachment, ...], raw: tuple[bytes | None, object] = (None, None)
) -> Draft:
    date = row.first_attempt_at  # the field leaves out what is less than a second
    whole, dsn = raw
    return Draft(
        id=row.id,
        message_id=row.message_id,
        date=date,
        attachments=attachments,
        raw=whole,
        dsn=dsn,
        batch=row.batch,
        **row.content,
    )


def _message(row: ClaimedRow, composed: Composed, wire: tuple[str, ...]) -> Message:
    return Message(
        row_id=row.id,
        claim_seq=row.claim_seq,
        message_id=row.message_id,
        mail_from=composed.mail_from,
        recipients=wire,
        content=composed.content,
        smtputf8=composed.smtputf8,
        dsn=composed.dsn,
        envelope_id=composed.envelope_id,
    )


def _without_sending(
    row: ClaimedRow,
    recipients: Iterable[Recipient],
    open_ones: Collection[str],
    suppressed: Mapping[tuple[str, str], str],
    now: datetime,
) -> dict[str, Outcome]:
    """Outcomes of the open recipients to whom nothing may be sent."""
    if row.expires_at is not None and row.expires_at <= now:
        return dict.fromkeys(open_ones, Expired(reason=f"expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC"))
    settled: dict[str, Outcome] = {}
    for recipient in recipients:
        reason = recipient.withheld or _suppression(recipient, row.content.get("list"), suppressed)
        if recipient.address in open_ones and reason:
            settled[recipient.address] = Suppressed(reason=reason)
    return settled


def _suppression(recipient: Recipient, list_name: str | None, suppressed: Mapping[tuple[str, str], str]) -> str:
    for name in {"": None, list_name or "": None}:
        reason = suppressed.get((name, recipient.address))
        if reason is not None:
            where = f"the suppression list of {name}" if name else "the suppression list"
            return f"on {where}: {reason}" if reason else f"on {where}"
    return ""


def _require_a_few(recipients: Collection[Recipient]) -> None:
    if len(recipients) > MOST_APART:
        reason = f"its mail has a link for each recipient, and so a message for each of {len(recipients):,}"
        raise Unsendable("list", f"{reason}; at most {MOST_APART:,} go in one row, so write a row for each")


def beside(waiting: Collection[str], others: Iterable[str]) -> set[str]:
    """Who has to wait, with all others at the same domains."""
    domains = {address.rpartition("@")[2] for address in waiting}
    return {*waiting, *(address for address in others if address.rpartition("@")[2] in domains)}


def _wire(may_go: list[Recipient], open_ones: Mapping[str, RecipientState], at_once: int) -> dict[str, tuple[str, ...]]:
    """The wire addresses of this transaction, each with the recipients behind it (Rule 2)."""
    if len(may_go) > 1:
        may_go = sorted(may_go, key=lambda r: _tried(open_ones[r.address]))
    wire: dict[str, tuple[str, ...]] = {}
    for recipient in may_go:
        if recipient.wire.isascii() != may_go[0].wire.isascii():
            continue  # in a transaction of its own: it may need SMTPUTF8, and the others do not
        if recipient.wire not in wire and len(wire) >= at_once:
            break  # the others stay open, and are due at once
        wire[recipient.wire] = (*wire.get(recipient.wire, ()), recipient.address)
    return wire


def _tried(state: RecipientState) -> tuple[int, bool]:
    return state.attempts + state.doubts, state.reply is not None
