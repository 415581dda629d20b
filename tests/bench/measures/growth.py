"""What twice the text costs: shapes that were slow somewhere, each at one size and at two."""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from poller.exchange import Exchange, Message, Phase, Reply
from poller.judgement.outcome import judge
from poller.message import composer as remembering
from poller.message import reading
from poller.message.composer import Composer
from poller.message.draft import Draft, Unsendable
from poller.message.settings import MessageSettings, TemplateSettings
from poller.smtp.replies import MAX_LINES, ReplyReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.scene import Scene

SIZE = 100_000
"""Characters; then twice as many."""

WORDS = ("=?u?q? ", "=?u?q?a", "é", "e\u0301", '"', "(", "a ", "\u200d")
LISTS = ("=?u?q? ", "(", '"', "\\", "a.", "a:", "[", "a <b@c.example>, ", "a@é.example,", "a@b.example, ", '"a" ')
PAGES = ("<a ", "<", "<!--", "</", "<a b='", "<![", "<?", "&", "&amp", "<div>", "<p>a", "<b><p>", "<td><p></p>")
MORE_PAGES = ("<ul><li>a", "<blockquote>a", "<a href='https://x.y'>a", "<span style='display:none'>", "a<b c@d>\n")
LEAST_S = 0.02
REMEMBERED = (reading.read_lists, reading.one_address, remembering._from_field)
BODIES = ("é", "=", " ", "\r", "a\n.", "\t")
REPLIES = ("too many messages in this ", "try again in ", "<a@b> ", "a@", "1 ", "limit ", "5.7.1 ", "from your ip ")


def shapes() -> dict[str, Callable[[int], object]]:
    """By name, what is done with so many characters."""
    composer = Composer(MessageSettings(sender="Shop <shop@shop.example>"), TemplateSettings())
    found: dict[str, Callable[[int], object]] = {}
    for column, pieces in (
        *(("subject", WORDS), ("sender", WORDS), ("recipients", LISTS), ("reply_to", LISTS)),
        *(("body_html", (*PAGES, *MORE_PAGES)), ("body_text", BODIES)),
    ):
        for piece in pieces:
            found[f"{column} {piece!r}"] = lambda n, column=column, piece=piece: _composed(composer, column, piece, n)
    for piece in WORDS:
        found[f"headers {piece!r}"] = lambda n, piece=piece: _composed(composer, "headers", piece, n)
    for piece in REPLIES:
        found[f"reply {piece!r}"] = lambda n, piece=piece: _judged(piece, n)
    return found


def growth(scene: Scene) -> None:
    """Twice the text, whatever its shape: how many times the work (CPU seconds of this thread)."""
    size = scene.scale(SIZE, SIZE // 4)
    scene.book.say("growth.size", f"{size:,}")
    worst = 0.0
    for name, work in shapes().items():
        for _ in range(scene.rounds):
            one, two = _seconds(work, size), _seconds(work, 2 * size)
            scene.book.add(f"growth.{name}.ratio", two / one)
            scene.book.add(f"growth.{name}.ms", two * 1000)
        median = scene.book.median(f"growth.{name}.ratio") or 0.0
        worst = max(worst, median)
    scene.tell(f"the most: {worst:.2f} times")


def _seconds(work: Callable[[int], object], size: int) -> float:
    """Of enough repetitions for the clock. Without the collector, whose work depends on all that is alive."""
    times, spent = 0, 0.0
    gc.collect()
    gc.disable()
    try:
        while spent < LEAST_S:
            began = time.thread_time()
            work(size)
            spent += time.thread_time() - began
            times += 1
    finally:
        gc.enable()
    return spent / times


def _composed(composer: Composer, column: str, piece: str, size: int) -> object:
    text = piece * (size // len(piece))
    given: dict[str, Any] = {"recipients": "you@example.com", "subject": "s", "body_text": "x"}
    if column in {"sender", "reply_to"} and piece in WORDS:
        text += " <me@example.com>"
    given[column] = {"X-A": text} if column == "headers" else text
    if column == "body_html":
        given["body_text"] = None
    draft = Draft(id=1, message_id="<1@example.com>", date=datetime(2026, 1, 1, tzinfo=UTC), **given)
    for remembered in REMEMBERED:
        remembered.cache_clear()
    try:
        return composer.recipients(draft), composer.compose(draft)
    except Unsendable as error:
        return error


def _judged(piece: str, size: int) -> object:
    """A reply in lines of 4,000, as a hostile relay would write it."""
    line = (piece * (4000 // len(piece))).encode()
    lines = max(1, min(size // len(line), MAX_LINES - 1))
    reader = ReplyReader()
    reader.feed((b"450-" + line + b"\r\n") * lines + b"450 " + line + b"\r\n")
    raw = reader.take()
    assert raw is not None
    message = Message(
        row_id=1,
        claim_seq=1,
        message_id="<1@example.com>",
        mail_from="me@example.com",
        recipients=tuple(f"u{n}@example.com" for n in range(100)),
        content=b"",
    )
    exchange = Exchange(message=message, phase=Phase.RCPT, mail=Reply(code=250), rcpt=(raw.reply,) * 100)
    return judge(exchange)
