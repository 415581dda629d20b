"""The message of a row: what was sent, where it is kept; else what the row makes today, and whether it is that.

`[message] keep_sent` says what is kept: the bytes, or their hash, by which what the row makes today is told apart.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poller.columns import DRAFT_COLUMNS
from poller.frozen import dataclass
from poller.judgement.keeping import sha256_of, unpacked
from poller.message.draft import Draft, Unsendable
from poller.message.rendering import made_of, unpack
from poller.outbox.content import content_of
from poller.outbox.report import attachments_of
from poller.visible import moment
from poller.worker.wiring import composer_of, files_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.config.load import Config
    from poller.delivery.files import Files
    from poller.message.composer import Composer
    from poller.outbox import Engine
    from poller.outbox.content import KeptContent
    from poller.outbox.report import Story


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """The bytes, and in words what they are or are not; "" where nothing went out yet."""

    content: bytes
    caution: str
    unsigned: tuple[str, ...] = ()
    """Why it is shown without its DKIM signature, if it is."""


def letter_of(config: Config, engine: Engine, told: Story) -> Letter:
    """Raises Unsendable where there can be none, in the words of the row's own error."""
    found = content_of(engine, told.row["id"])
    if found is not None and (sent := _as_sent(found)) is not None:
        return Letter(content=sent, caution=f"what was accepted at {moment(found.at)} UTC, byte for byte")
    composer, unsigned = composer_to_show(config)
    content, is_again = made_now(composer, files_of(config, engine), engine, told.row, found)
    return Letter(content=content, caution=_what_it_is(told, found, content, is_again), unsigned=unsigned)


def composer_to_show(config: Config) -> tuple[Composer, tuple[str, ...]]:
    """What makes messages here. Anyone who may not read the keys sees them unsigned, and why."""
    composer = composer_of(config)
    unsigned = tuple(composer.signing.problems)
    return (composer_of(replace(config, dkim={})) if unsigned else composer), unsigned


def made_now(
    composer: Composer, files: Files, engine: Engine, row: Mapping[str, Any], found: KeptContent | None
) -> tuple[bytes, bool]:
    """What the row becomes now, and whether of what its template gave before, which is kept. Raises Unsendable."""
    draft = Draft(
        id=row["id"],
        message_id=row["message_id"] or f"<given-at-the-first-claim@{composer.message_id_domain}>",
        date=(row["first_attempt_at"] or row["created_at"]).replace(microsecond=0),
        attachments=files.of(attachments_of(engine, row["id"])),
        batch=row["batch"],
        raw=row["raw"],
        dsn=row["dsn"],
        **{name: row[name] for name in DRAFT_COLUMNS},
    )
    if found is not None and found.kept.rendered is not None:
        reader = composer.recipients(draft)[0].address if composer.writes_apart(draft) else None
        if found.kept.made_of == made_of(row, reader):
            draft = replace(draft, rendered=unpack(found.kept.rendered))
    return composer.compose(draft).content, draft.rendered is not None


def _as_sent(found: KeptContent) -> bytes | None:
    """The bytes, if they are kept."""
    if found.kept.message is None:
        return None
    try:
        content = unpacked(found.kept.message)
    except zlib.error:
        content = b""
    if sha256_of(content) != found.kept.sha256:
        raise Unsendable("outbox_content", "what was kept is damaged: it does not have the hash that was kept with it")
    return content


def _what_it_is(told: Story, found: KeptContent | None, content: bytes, is_again: bool) -> str:  # noqa: FBT001 - a fact
    """Whether this is what went out: only what is kept can tell. The template, say, may be another now."""
    accepted = [line["at"] for line in told.attempts if line["outcome"] in {"sent", "partial", "accepted"}]
    if found and found.kept.sha256 is not None:
        when = f"at {moment(found.at)} UTC"
        if found.kept.sha256 == sha256_of(content):
            return f"what was accepted {when}, byte for byte: it has the hash that was kept"
        return f"not what was accepted {when}, of which only the hash is kept: what the row would become now"
    if accepted or told.row["sent_at"]:
        when = moment(max([*accepted, *filter(None, [told.row["sent_at"]])]))
        return f"not what was sent at {when} UTC, which is not kept: what the row would become now"
    if found and is_again:
        return f"what the row was rendered to when it was tried by {moment(found.at)} UTC: the next try sends the same"
    if told.row["first_attempt_at"]:
        return "not what was tried before, which is not kept: what the row would become now"
    return ""
