"""What the log promises: names from the list, nothing private, the same keys in the same order, a line an event."""

from __future__ import annotations

import datetime as dt
import http
import io
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from poller import log
from poller.log import EVENTS, OnChange, configure, get_logger, shortened
from poller.settings import LogSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    for added in [outlet for outlet in root.handlers if outlet not in before]:
        root.removeHandler(added)
    root.setLevel(level)
    for name in ("apscheduler.executors", "apscheduler.scheduler", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def to_json(level: Any = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(LogSettings(level=level, format="json"), stream)
    return stream


def events_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_machine_reads_the_same_keys_in_the_same_order() -> None:
    stream = to_json()
    get_logger(worker="w1").info("attempt.sent", row=7, code=250)
    get_logger(worker="w1").info("attempt.sent", code=250, row=7)
    assert [list(event) for event in events_of(stream)] == [
        ["timestamp", "level", "event", "code", "row", "worker"]
    ] * 2
    event = events_of(stream)[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event.pop("timestamp"))
    assert event == {"level": "info", "event": "attempt.sent", "code": 250, "row": 7, "worker": "w1"}


@pytest.mark.parametrize(
    ("chosen", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_auto_is_for_people_on_a_terminal_and_else_for_machines(
    chosen: Any, stream: type[io.StringIO], is_json: Any
) -> None:
    out = stream()
    configure(LogSettings(format=chosen), out)
    get_logger().info("worker.started")
    assert out.getvalue().startswith("{") is is_json


def test_colours_are_for_terminals_only() -> None:
    for stream, coloured in ((io.StringIO(), False), (Terminal(), True)):
        configure(LogSettings(format="console"), stream)
        get_logger().info("worker.started")
        assert ("\x1b[" in stream.getvalue()) is coloured


def test_an_event_that_is_not_on_the_list_is_refused_even_below_the_level() -> None:
    to_json("error")
    with pytest.raises(ValueError, match=r"^'worker.strated' is not on the list of events; see poller\.log\.EVENTS$"):
        get_logger().debug("worker.strated")


def test_every_event_is_a_noun_and_a_verb_with_a_line_of_meaning() -> None:
    assert [name for name in EVENTS if not re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name)] == []
    assert [name for name, meaning in EVENTS.items() if not meaning or "\n" in meaning] == []


def test_what_is_below_the_level_is_not_logged() -> None:
    stream = to_json("warning")
    get_logger().info("worker.started")
    get_logger().warning("worker.stopping")
    assert [event["event"] for event in events_of(stream)] == ["worker.stopping"]


def test_what_libraries_log_takes_the_same_road_and_their_chatter_none() -> None:
    stream = to_json("debug")
    logging.getLogger("some.library").info("%s is here", "jane@example.com")
    for name in ("apscheduler.executors.default", "apscheduler.scheduler", "sqlalchemy.engine"):
        logging.getLogger(name).info("a tick")
        logging.getLogger(name).warning("trouble")
    logging.getLogger("apscheduler.executors.deliver").error("Job raised an exception")  # `tick.failed` says it
    found = [(event["logger"], event["level"], event["event"]) for event in events_of(stream)]
    assert found == [
        ("some.library", "info", "j…@example.com is here"),
        ("sqlalchemy.engine", "warning", "trouble"),
    ]


def test_a_second_configuration_replaces_the_first() -> None:
    first, second = to_json(), to_json()
    get_logger().info("worker.started")
    assert (len(events_of(first)), len(events_of(second))) == (0, 1)


def raise_os_error(message: str) -> None:
    raise OSError(message)


@pytest.mark.parametrize("chosen", ["json", "console"])
def test_an_exception_comes_without_locals_addresses_or_passwords(chosen: Any) -> None:
    stream = io.StringIO()
    configure(LogSettings(format=chosen), stream)
    secret = "hunter" + "2"  # in two parts: a traceback quotes the source
    message = f"postgresql://u:{secret}@host/x refused <jane@example.com>\n\x1b[2J"
    try:
        raise_os_error(message)
    except OSError:
        get_logger().exception("tick.failed")
    text = stream.getvalue()
    assert [private for private in ("hunter2", "jane@", "\x1b") if private in text] == []
    assert "j…@example.com" in text
    assert "OSError" in text


def test_nothing_private_gets_out_however_deep_it_lies() -> None:
    stream = to_json()
    get_logger().info(
        "attempt.failed",
        password="hunter2",
        subject="hunter2",
        body_text="hunter2",
        url="hunter2",
        reply="550 <jane@example.com>: unknown",
        detail={"smtp_password": "hunter2", "to": ["jane@example.com"], "raw": b"jane@example.com"},
        source="mysql://u:hunter2@h/n",
        error=ValueError("jane@example.com"),
    )
    event = events_of(stream)[0]
    assert "hunter2" not in stream.getvalue()
    assert event["reply"] == "550 <j…@example.com>: unknown"
    assert event["detail"] == {"smtp_password": "…", "to": ["j…@example.com"], "raw": "j…@example.com"}
    assert (event["source"], event["error"]) == ("mysql://…@h/n", "j…@example.com")


def test_a_message_id_stays_whole_and_times_are_iso() -> None:
    stream = to_json()
    get_logger().info("attempt.sent", message_id="<k@example.com>", due=dt.datetime(2026, 11, 22, tzinfo=dt.UTC))
    event = events_of(stream)[0]
    assert (event["message_id"], event["due"]) == ("<k@example.com>", "2026-11-22T00:00:00+00:00")


class Word(str):
    __slots__ = ()


NAMES = st.sampled_from(
    [
        "to",
        "reply",
        "message_id",
        "password",
        "subject",
        "Body_text",
        "url",
        "level",
        "timestamp",
        "exception",
        "a b",
        "é",
    ]
) | st.text(max_size=5).filter(lambda name: name not in {"exc_info", "event"})
PIECES = st.sampled_from(
    ["jane@example.com", "j…@example.com", "…@", "@", "…", "<k@h>", "mysql://u:p@h/n", "://", ":", '"', "\\", "\x1b[2J"]
) | st.text(max_size=5)
TEXTS = st.lists(PIECES, max_size=5).map("".join)
SIMPLE = (
    TEXTS
    | TEXTS.map(Word)
    | TEXTS.map(ValueError)
    | st.binary(max_size=9)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.datetimes()
    | st.dates()
    | st.decimals()
    | st.sampled_from(http.HTTPStatus)
)
VALUES = SIMPLE | st.lists(SIMPLE, max_size=3) | st.dictionaries(NAMES, SIMPLE, max_size=3) | st.tuples(SIMPLE, TEXTS)


@given(
    fields=st.dictionaries(NAMES, VALUES, max_size=8),
    event=st.sampled_from(sorted(EVENTS)),
    level=st.sampled_from(["debug", "info", "warning", "error"]),
)
def test_our_events_are_written_at_once_as_the_steps_would_write_them(
    fields: dict[str, Any], event: str, level: Any
) -> None:
    stream = to_json("debug")
    with mock.patch.object(time, "time_ns", return_value=1_795_305_600_012_345_678):
        get_logger(**fields).bind()._say(log._LEVELS[level], event, {})
        line: Any = {**fields, "event": event}
        for step in [log._stamped, *log._for_machines()]:
            line = step(None, level, line)
    assert stream.getvalue() == line + "\n"


@given(text=TEXTS.filter(lambda text: "://" not in text and text.isprintable()))
def test_no_address_is_missed_for_others_that_are_shortened_already(text: str) -> None:
    assert log._public_text("to", text) == log._ADDRESS.sub(log._shortened, text)


@pytest.mark.parametrize("chosen", ["json", "console"])
@given(text=st.text())
def test_an_event_is_one_line_whatever_the_relay_replies(chosen: Any, text: str) -> None:
    stream = io.StringIO()
    configure(LogSettings(format=chosen), stream)
    get_logger().info("attempt.failed", reply=text + "\n\r\x1b[2J\u2028\x85")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("jane@example.com", "j…@example.com"),
        ('"jane doe"@example.com', "j…@example.com"),
        ("<jane@example.com>", "j…@example.com"),
        ('"a@b"@example.com', "a…@example.com"),
        ("jane", "j…"),
        ("", "…"),
    ],
)
def test_of_an_address_the_first_letter_and_the_domain_are_shown(address: str, expected: str) -> None:
    assert shortened(address) == expected


def test_a_trouble_is_said_once_and_again_when_it_changes() -> None:
    stream = to_json()
    say = OnChange(get_logger()).say
    said = [
        say("warning", "database.unavailable", about="database", fingerprint="refused"),
        say("warning", "database.unavailable", about="database", fingerprint="refused"),
        say("warning", "relay.unavailable", about="relay", fingerprint="refused"),
        say("warning", "database.unavailable", about="database", fingerprint="login"),
        say("info", "database.available", about="database", after="5s"),
        say("info", "database.available", about="database", after="6s"),
        say("warning", "database.unavailable", about="database", fingerprint="login"),
    ]
    assert said == [True, False, True, True, True, False, True]
    assert [(event["level"], event["event"]) for event in events_of(stream)] == [
        ("warning", "database.unavailable"),
        ("warning", "relay.unavailable"),
        ("warning", "database.unavailable"),
        ("info", "database.available"),
        ("warning", "database.unavailable"),
    ]
