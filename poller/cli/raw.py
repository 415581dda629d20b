"""`poller show ID --raw`: what was sent, where it is kept; else what the row makes today, and whether it is that.

`[message] keep_sent` says what is kept: the bytes, or their hash, by which what the row makes today is told apart.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any

from poller.cli.screen import say
from poller.cli.session import Stop, moment
from poller.judgement.keeping import sha256_of, unpacked
from poller.message.composer import Composer
from poller.message.draft import Draft, Unsendable
from poller.message.rendering import made_of, unpack
from poller.outbox.content import content_of
from poller.outbox.report import attachments_of
from poller.outbox.rows import DRAFT_COLUMNS
from poller.worker.wiring import composer_of, files_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.config.load import Config
    from poller.delivery.files import Files
    from poller.message.templates import Rendered
    from poller.outbox import Engine
    from poller.outbox.content import KeptContent
    from poller.outbox.report import Story


def show_raw(config: Config, engine: Engine, told: Story) -> None:
    """Print the bytes. Raises Stop where there can be none, in the words of the row's own error."""
    found = content_of(engine, told.row["id"])
    sent = _as_sent(found)
    if found and sent is not None:
        say(f"what was accepted at {moment(found.at)} UTC, byte for byte", err=True)
        sys.stdout.buffer.write(sent)
        return
    try:
        content = made_now(composer_to_show(config), files_of(config, engine), engine, told.row, found)
    except Unsendable as error:
        raise Stop(f"this row can't become a message: {error}") from None
    if words := _what_it_is(told, found, content):
        say(words, err=True)
    sys.stdout.buffer.write(content)


def _as_sent(found: KeptContent | None) -> bytes | None:
    """The bytes, if they are kept."""
    if found is None or found.kept.message is None:
        return None
    try:
        content = unpacked(found.kept.message)
    except zlib.error:
        content = b""
    if sha256_of(content) != found.kept.sha256:
        raise Stop("what was kept of this message is damaged: it does not have the hash that was kept beside it")
    return content


def _rendering(row: Mapping[str, Any], found: KeptContent | None) -> Rendered | None:
    """What the next try would be made of, if not of the template."""
    if found is None or found.kept.rendered is None or found.kept.made_of != made_of(row):
        return None
    return unpack(found.kept.rendered)


def composer_to_show(config: Config) -> Composer:
    """What makes messages here. Whoever may not read the keys sees them unsigned, and is told so."""
    composer = composer_of(config)
    if not composer.signing.problems:
        return composer
    for problem in composer.signing.problems:
        say(f"shown without its DKIM signature: {problem}", err=True)
    return Composer(config.message, config.templates)


def made_now(
    composer: Composer, files: Files, engine: Engine, row: Mapping[str, Any], found: KeptContent | None = None
) -> bytes:
    """What the row becomes now; of its template, unless what that gave before is kept. Raises Unsendable."""
    draft = Draft(
        id=row["id"],
        message_id=row["message_id"] or f"<given-at-the-first-claim@{composer.message_id_domain}>",
        date=(row["first_attempt_at"] or row["created_at"]).replace(microsecond=0),
        attachments=files.of(attachments_of(engine, row["id"])),
        rendered=_rendering(row, found),
        **{name: row[name] for name in DRAFT_COLUMNS},
    )
    return composer.compose(draft).content


def _what_it_is(told: Story, found: KeptContent | None, content: bytes) -> str:
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
    if found and _rendering(told.row, found):
        return f"what the row was rendered to when it was tried by {moment(found.at)} UTC: the next try sends the same"
    if told.row["first_attempt_at"]:
        return "not what was tried before, which is not kept: what the row would become now"
    return ""
