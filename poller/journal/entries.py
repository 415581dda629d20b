"""Entries: what the records of a journal say about one message, from its first record to its last.

    begun      a worker set about composing it
    composed   it has a message, for these recipients; nothing of it is complete at the relay
    committed  the end of its data was about to leave; what its recipients had been told until then
    answered   what came of it, as an exchange

Pure: bytes to entries and back. A record that makes no sense raises ValueError. A record is a list in JSON; it
is written by hand, since there are four for each message and json.dumps takes twice the time.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Any

from poller.exchange import Exchange, Loss, Message, Phase, Reply, answer_lost

if TYPE_CHECKING:
    from collections.abc import Sequence

Key = tuple[int, int]
"""Row id and claim_seq."""

_KINDS = frozenset("bciapte")
_FIRST_BAD = 400

REPLY_MOST = 2100
"""Bytes that one reply can take: a thousand characters, each perhaps escaped, its code and status."""
RECORD_MOST = 1000
"""Bytes of a record beside its replies and recipients."""


class Stage(enum.IntEnum):
    """How far a message had come."""

    BEGUN = 1
    COMPOSED = 2
    COMMITTED = 3
    ANSWERED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known of one claim of one row.

    `position` is its first record's; `exchange` what happened on the wire, complete once it is answered, and with a
    loss after the end of data while it is only committed; `at` when it was answered. `died` says that the process
    wrote nothing after it began to compose this.
    """

    row_id: int
    claim_seq: int
    position: int
    stage: Stage = Stage.BEGUN
    message_id: str = ""
    recipients: tuple[str, ...] = ()
    exchange: Exchange | None = None
    at: datetime | None = None
    died: bool = False

    @property
    def key(self) -> Key:
        """Row id and claim_seq."""
        return self.row_id, self.claim_seq


def begun(row_id: int, claim_seq: int) -> bytes:
    """The record of a row that is about to be composed."""
    return b'["b",%d,%d]' % (row_id, claim_seq)


def ended(row_id: int, claim_seq: int) -> bytes:
    """The record of a row of which no message was made: composing it is over."""
    return b'["e",%d,%d]' % (row_id, claim_seq)


def composed(message: Message) -> bytes:
    """The record of a message that is ready."""
    recipients = ",".join(map(_quoted, message.recipients))
    return f'["c",{message.row_id},{message.claim_seq},{_quoted(message.message_id)},[{recipients}]]'.encode()


def committed(message: Message, relay: str, rcpt: Sequence[Reply | None]) -> bytes:
    """The record of a message whose end of data is about to leave."""
    replies = ",".join(map(_reply, rcpt))
    return f'["i",{message.row_id},{message.claim_seq},{_quoted(relay)},[{replies}]]'.encode()


def answered(exchange: Exchange, at: datetime) -> bytes:
    """The record of what came of a message."""
    message, loss = exchange.message, exchange.loss
    replies = ",".join(map(_reply, exchange.rcpt))
    lost = f"[{_quoted(loss.phase)},{_quoted(loss.reason)}]" if loss else "null"
    sent = "true" if exchange.end_of_data_sent else "false"
    return (
        f'["a",{message.row_id},{message.claim_seq},{at.timestamp()!r},{_quoted(exchange.relay)},'
        f"{_quoted(exchange.phase)},{_reply(exchange.mail)},[{replies}],{_reply(exchange.data)},"
        f"{_words(exchange.end)},{lost},{sent},{_quoted(exchange.lacking)}]"
    ).encode()


def applied(position: int) -> bytes:
    """The record that everything up to `position` is written down in the database."""
    return b'["p",%d]' % position


TAKEN_UP = b'["t"]'
"""The record that everything that earlier lives left behind has been judged."""


def room_for(recipients: Sequence[str]) -> int:
    """Bytes that all records of a message to `recipients` can take, beyond the one that it was begun."""
    names = 6 * len("".join(recipients))
    return 3 * RECORD_MOST + 2 * REPLY_MOST * (len(recipients) + 3) + 2 * names


def read(payload: bytes) -> list[Any]:
    """A record, as a list that begins with its kind. Raises ValueError."""
    record: list[Any] = json.loads(payload)
    if record[0] not in _KINDS:
        raise ValueError(f"a record of an unknown kind {record[0]!r}")
    return record


def position_in(record: list[Any]) -> int | None:
    """The position up to which this record says that everything is written down; None for other kinds."""
    return int(record[1]) if record[0] == "p" else None


def is_taken_up(record: list[Any]) -> bool:
    """See TAKEN_UP."""
    return bool(record[0] == "t")


def key_of(record: list[Any]) -> Key:
    """Whom a record about a message is about."""
    return record[1], record[2]


def follow(entry: Entry | None, position: int, record: list[Any]) -> Entry:
    """`entry` after one more record about its message."""
    row_id, claim_seq = key_of(record)
    known = entry or Entry(row_id=row_id, claim_seq=claim_seq, position=position)
    match record[0]:
        case "b":
            return Entry(row_id=row_id, claim_seq=claim_seq, position=position)
        case "e":
            return known
        case "c":
            return replace(known, stage=Stage.COMPOSED, message_id=record[3], recipients=tuple(record[4]))
        case "i":
            return replace(known, stage=Stage.COMMITTED, exchange=_unanswered(known, relay=record[3], rcpt=record[4]))
        case _:
            at = datetime.fromtimestamp(record[3], UTC)
            return replace(known, stage=Stage.ANSWERED, exchange=_exchange(known, record[4:]), at=at)


def _reply(reply: Reply | None) -> str:
    """Of a good reply only the code is worth keeping."""
    return str(reply.code) if reply is not None and reply.code < _FIRST_BAD else _words(reply)


def _words(reply: Reply | None) -> str:
    return f"[{reply.code},{_quoted(reply.status)},{_quoted(reply.text)}]" if reply else "null"


def _read_reply(found: Any) -> Reply | None:
    match found:
        case None:
            return None
        case int():
            return Reply(code=found)
        case _:
            code, status, text = found
            return Reply(code=code, status=status, text=text)


def _message(entry: Entry) -> Message:
    return Message(
        row_id=entry.row_id,
        claim_seq=entry.claim_seq,
        message_id=entry.message_id,
        mail_from="",
        recipients=entry.recipients,
        content=b"",
    )


def _unanswered(entry: Entry, *, relay: str, rcpt: list[Any]) -> Exchange:
    replies = tuple(_read_reply(reply) for reply in rcpt)
    return answer_lost(_message(entry), relay, "this worker ended before it had the answer", replies)


def _exchange(entry: Entry, record: list[Any]) -> Exchange:
    relay, phase, mail, rcpt, data, end, loss, end_of_data_sent, lacking = record
    return Exchange(
        message=_message(entry),
        phase=Phase(phase),
        mail=_read_reply(mail),
        rcpt=tuple(_read_reply(reply) for reply in rcpt),
        data=_read_reply(data),
        end=_read_reply(end),
        loss=Loss(phase=Phase(loss[0]), reason=loss[1]) if loss else None,
        end_of_data_sent=end_of_data_sent,
        lacking=lacking,
        relay=relay,
    )
