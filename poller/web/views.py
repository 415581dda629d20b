"""What each page shows: values for its template, from the same functions as the commands'.

A view that takes long is asked through `Fresh`; while its answer is not there the value is None, and the page says so.
Raises Missing for what does not exist, Misasked for a question that makes no sense, DatabaseUnavailable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poller.answers.causes import SIDES, counted
from poller.answers.foresight import foreseen, why_unknown
from poller.answers.holdups import outlook
from poller.answers.letter import letter_of
from poller.answers.reasons import Reasons
from poller.answers.standing import remarkable, screen_lines, standing_of, waiting_of
from poller.message.draft import Unsendable
from poller.outbox.doubts import doubts
from poller.outbox.find import find
from poller.outbox.progress import batch_named, batches, destinations, pace
from poller.outbox.report import failures, glance, overview, story
from poller.statuses import TABLE
from poller.units import parse_duration
from poller.web.preview import preview_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Failure, Story
    from poller.web.fresh import Fresh
    from poller.web.preview import Preview

MOST_CAUSES = 50
MOST_FOUND = 100
LARGEST_ID = 2**63 - 1
ACTS = {status.name: status.acts for status in TABLE}
BY = ("reason", "code", "domain", "relay", "template", "batch", "status")
SINCE = ("1h", "1d", "7d", "30d")

Values = dict[str, Any]


class Missing(Exception):  # noqa: N818 - named as the fact it is
    """There is no such thing."""


class Misasked(Exception):  # noqa: N818 - named as the fact it is
    """The question makes no sense; the text says why."""


class Views:
    """Every method gives the values of the template of the same name."""

    def __init__(self, config: Config, engine: Engine, fresh: Fresh) -> None:
        self._config, self._engine, self._fresh = config, engine, fresh

    def overview(self, _: Mapping[str, str]) -> Values:
        """How it goes now, and what holds mail up."""
        now = self._fresh.get("now", lambda: (glance(self._engine), pace(self._engine)))
        found = self._fresh.get("overview", self._overview)
        seen, paced = now.answer if now else (None, None)
        return {
            "glance": seen,
            "pace": paced,
            "seen": found.answer[0] if found else None,
            "outlook": found.answer[1] if found else None,
            "age": found.age if found else 0.0,
        }

    def _overview(self) -> tuple[Any, Any]:
        seen = overview(self._engine)
        return seen, outlook(self._config, self._engine, seen, standing_of(self._config, self._engine, seen.at))

    def find(self, asked: Mapping[str, str]) -> Values:
        """The rows that are known by these words."""
        words = asked.get("q", "").strip()
        found = find(self._engine, words, most=MOST_FOUND) if words else []
        return {"words": words, "found": found, "most": MOST_FOUND}

    def row(self, asked: Mapping[str, str]) -> Values:
        """A row's whole story, and its message."""
        told = self.told(asked)
        letter, trouble, caution = None, "", ""
        unsigned: tuple[str, ...] = ()
        try:
            made = letter_of(self._config, self._engine, told)
            letter, caution, unsigned = preview_of(made.content), made.caution, made.unsigned
        except Unsendable as error:
            trouble = str(error)
        return {
            "told": told,
            "row": told.row,
            "reasons": Reasons(self._config, self._engine, told).lines(),
            "acts": ACTS[told.row["status"]],
            "letter": letter,
            "caution": caution,
            "unsigned": unsigned,
            "trouble": trouble,
            "held": [one["address"] for one in told.recipients if one["status"] == "in_doubt"],
        }

    def told(self, asked: Mapping[str, str]) -> Story:
        """The row that a path names."""
        row_id = int(asked["id"])
        told = story(self._engine, row_id) if row_id <= LARGEST_ID else None
        if told is None:
            raise Missing(f"there is no row {row_id}")
        return told

    def content(self, asked: Mapping[str, str]) -> bytes:
        """The message's bytes."""
        try:
            return letter_of(self._config, self._engine, self.told(asked)).content
        except Unsendable as error:
            raise Missing(f"this row can't become a message: {error}") from None

    def preview(self, asked: Mapping[str, str]) -> Preview:
        """The message, taken apart."""
        return preview_of(self.content(asked))

    def batches(self, _: Mapping[str, str]) -> Values:
        """Each batch with its progress."""
        found = self._fresh.get("batches", lambda: batches(self._engine))
        return {"batches": found.answer if found else None}

    def batch(self, asked: Mapping[str, str]) -> Values:
        """One batch, when it will be done, and why not yet."""
        name = asked.get("name", "")
        found = self._fresh.get(("batch", name), lambda: self._batch(name))
        return {"name": name, **(found.answer if found else {"batch": None})}

    def _batch(self, name: str) -> Values:
        batch = batch_named(self._engine, name)
        if batch is None:
            raise Missing(f"there is no batch {name!r}")
        seen = glance(self._engine)
        standing = standing_of(self._config, self._engine, seen.at)
        forecast = unknown = None
        if batch["open"]:
            unknown = list(why_unknown(self._config, self._engine, seen))
            waiting = waiting_of(self._config, self._engine, standing, name)
            forecast = foreseen(self._config, self._engine, seen, standing, waiting)
        return {"batch": batch, "forecast": forecast, "unknown": unknown}

    def failures(self, asked: Mapping[str, str]) -> Values:
        """Who did not get it, counted."""
        by, batch = asked.get("by") or "reason", asked.get("batch") or None
        if by not in SIDES:
            raise Misasked(f"failures are counted by one of {', '.join(SIDES)}")
        since = asked.get("since") or "1d"
        seconds = seconds_of(since)
        key = ("failures", since, batch)
        found = self._fresh.get(key, lambda: failures(self._engine, seconds=seconds, batch=batch))
        lines = counted(found.answer, SIDES[by]) if found else None
        return {
            "by": by,
            "since": since,
            "batch": batch,
            "lines": lines[:MOST_CAUSES] if lines is not None else None,
            "more": max(0, len(lines or ()) - MOST_CAUSES),
            "total": len(found.answer) if found else 0,
            "sides": BY,
            "spans": SINCE,
        }

    def of_one_cause(self, *, by: str, cause: str, since: str, batch: str | None) -> list[Failure]:
        """The failures that one line of `failures` counts, as they are now."""
        if by not in SIDES:
            raise Misasked(f"failures are counted by one of {', '.join(SIDES)}")
        found = failures(self._engine, seconds=seconds_of(since), batch=batch)
        return [one for one in found if SIDES[by](one) == cause]

    def destinations(self, _: Mapping[str, str]) -> Values:
        """Where mail goes, how the limits stand, and the relays."""
        found = self._fresh.get("destinations", lambda: destinations(self._engine))
        standing = standing_of(self._config, self._engine, glance(self._engine).at)
        kinds = [key.kind for key, _ in remarkable(standing)]
        return {
            "domains": found.answer if found else None,
            "relays": standing.relays,
            "limits": list(screen_lines(standing)),
            "kinds": kinds,
        }

    def doubts(self, _: Mapping[str, str]) -> Values:
        """What may have been delivered."""
        return {"doubts": doubts(self._engine)}

    def workers(self, _: Mapping[str, str]) -> Values:
        """Who works here."""
        return {"glance": glance(self._engine)}


def seconds_of(span: str) -> float:
    """Of "7d"."""
    try:
        return parse_duration(span)
    except ValueError as error:
        raise Misasked(f"since: {error}") from None
