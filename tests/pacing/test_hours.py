"""When mail may go: windows and quiet hours, on the clocks of any place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.pacing.hours import Hours, Span, closes_at, is_open, opens_at, parse_span, parse_zone

BERLIN, NEW_YORK, KOLKATA = (ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Asia/Kolkata"))


def hours(*windows: str, quiet: tuple[str, ...] = (), zone: ZoneInfo | None = None) -> Hours:
    return Hours(windows=tuple(map(parse_span, windows)), quiet=tuple(map(parse_span, quiet)), zone=zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


# ---- writing them


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Mon-Fri 08:00-18:00", "Mon,Tue,Wed,Thu,Fri 08:00-18:00"),
        ("monday-Friday 08:00-18:00", "Mon,Tue,Wed,Thu,Fri 08:00-18:00"),
        ("Fri-Mon 10:00-24:00", "Mon,Fri,Sat,Sun 10:00-24:00"),
        ("Sat,Sun 10:00-16:00", "Sat,Sun 10:00-16:00"),
        ("Mon,Wed-Thu 10:00-16:00", "Mon,Wed,Thu 10:00-16:00"),
        ("22:00-07:00", "22:00-07:00"),
    ],
)
def test_a_span_is_read_and_written(text: str, written: str) -> None:
    assert str(parse_span(text)) == written
    assert parse_span(written) == parse_span(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not hours; write them like"),
        ("8:00-18:00", "not hours; write them like"),
        ("08:00-18", "not hours; write them like"),
        ("Mon 08:00 - 18:00", "not hours; write them like"),
        (8, "not hours; write them like"),
        ("Mo-Fr 08:00-18:00", "not a day; they are Mon"),
        ("Mon-Fry 08:00-18:00", "not a day; they are Mon"),
        ("Mon,, 08:00-18:00", "not a day; they are Mon"),
        ("08:60-18:00", "not a time of day; from 00:00 to 24:00"),
        ("08:00-24:01", "not a time of day; from 00:00 to 24:00"),
        ("24:00-08:00", "nothing begins at 24:00"),
        ("08:00-08:00", "begins when it ends; the whole day is 00:00-24:00"),
    ],
)
def test_what_is_no_span_is_refused_with_the_remedy(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        parse_span(text)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../etc/passwd", "/etc/localtime", "CEST5", 5, "Europe/\0"])
def test_a_zone_that_nobody_knows_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r"^not a time zone that is known here"):
        parse_zone(name)


def test_a_zone_is_known_by_its_name() -> None:
    assert parse_zone("Europe/Berlin") == BERLIN


@pytest.mark.parametrize(
    ("windows", "quiet"),
    [
        (("08:00-18:00",), ("07:00-19:00",)),
        ((), ("00:00-24:00",)),
        (("Mon 22:00-02:00",), ("Mon 20:00-24:00", "Tue 00:00-06:00")),
        (("Sun 23:00-01:00",), ("Sun,Mon 00:00-24:00",)),
    ],
)
def test_hours_that_never_open_are_refused(windows: tuple[str, ...], quiet: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^these windows and quiet hours never open$"):
        hours(*windows, quiet=quiet)


def test_a_minute_a_week_is_enough() -> None:
    assert is_open(hours("Wed 08:00-18:00", quiet=("Wed 08:01-18:00",)), utc("2026-11-25 08:00"))


# ---- being open


@pytest.mark.parametrize(
    ("now", "opened"),
    [
        ("2026-11-20 07:59:59", False),
        ("2026-11-20 08:00", True),
        ("2026-11-20 17:59:59", True),
        ("2026-11-20 18:00", False),
        ("2026-11-21 12:00", False),
    ],
)
def test_it_is_open_from_the_first_minute_to_before_the_last(now: str, *, opened: bool) -> None:
    assert is_open(hours("Mon-Fri 08:00-18:00"), utc(now)) == opened


def test_a_span_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    nights = hours("Fri 22:00-07:00")
    opened = [is_open(nights, utc(f"2026-11-{day}")) for day in ("20 06:00", "20 23:00", "21 06:59", "21 23:00")]
    assert opened == [False, True, True, False]


def test_quiet_hours_are_stronger_than_windows() -> None:
    lunch = hours("08:00-18:00", quiet=("12:00-13:00",))
    assert [is_open(lunch, utc(f"2026-11-20 {hour}:30")) for hour in (11, 12, 13)] == [True, False, True]


def test_without_hours_it_is_always_open() -> None:
    assert opens_at(Hours(), utc("2026-11-20 03:00")) == utc("2026-11-20 03:00")
    assert closes_at(Hours(), utc("2026-11-20 03:00")) is None


def test_hours_are_those_of_the_zone() -> None:
    assert opens_at(hours("08:00-18:00", zone=BERLIN), utc("2026-11-20 00:00")) == utc("2026-11-20 07:00")
    assert opens_at(hours("08:00-18:00", zone=KOLKATA), utc("2026-11-20 00:00")) == utc("2026-11-20 02:30")


# ---- opening and closing


@pytest.mark.parametrize(
    ("now", "opening", "closing"),
    [
        ("2026-11-20 12:00", "2026-11-20 12:00", "2026-11-20 18:00"),
        ("2026-11-20 18:00", "2026-11-23 08:00", "2026-11-20 18:00"),
        ("2026-11-21 12:00", "2026-11-23 08:00", "2026-11-21 12:00"),
        ("2026-12-31 20:00", "2027-01-01 08:00", "2026-12-31 20:00"),
    ],
)
def test_it_tells_when_it_opens_and_closes(now: str, opening: str, closing: str) -> None:
    work = hours("Mon-Fri 08:00-18:00")
    assert (opens_at(work, utc(now)), closes_at(work, utc(now))) == (utc(opening), utc(closing))


def test_spans_that_touch_do_not_close_between() -> None:
    assert closes_at(hours("08:00-24:00", "00:00-02:00"), utc("2026-11-20 12:00")) == utc("2026-11-21 02:00")


def test_in_spring_the_day_is_an_hour_shorter() -> None:
    nights = hours("22:00-07:00", zone=BERLIN)
    evening = local("2026-03-28 22:00")
    closing = closes_at(nights, evening)
    assert closing == local("2026-03-29 07:00").astimezone(UTC)
    assert closing - evening.astimezone(UTC) == timedelta(hours=8)


def test_in_autumn_the_night_is_an_hour_longer() -> None:
    nights = hours("22:00-07:00", zone=BERLIN)
    evening = local("2026-10-24 22:00")
    closing = closes_at(nights, evening)
    assert closing is not None
    assert closing - evening.astimezone(UTC) == timedelta(hours=10)


def test_a_window_that_begins_within_the_skipped_hour_opens_when_the_clocks_have_changed() -> None:
    early = hours("02:30-04:00", zone=BERLIN)
    assert opens_at(early, local("2026-03-29 01:00")) == utc("2026-03-29 01:00")
    assert closes_at(early, utc("2026-03-29 01:00")) == utc("2026-03-29 02:00")


def test_a_window_that_lies_within_the_skipped_hour_does_not_come_that_day() -> None:
    skipped = hours("02:15-02:45", zone=BERLIN)
    assert opens_at(skipped, local("2026-03-29 00:00")) == local("2026-03-30 02:15").astimezone(UTC)
    weekly = hours("Sun 02:15-02:45", zone=BERLIN)
    assert opens_at(weekly, local("2026-03-24 00:00")) == local("2026-04-05 02:15").astimezone(UTC)


def test_a_window_within_the_repeated_hour_comes_twice() -> None:
    twice = hours("02:15-02:45", zone=BERLIN)
    first, second = (local("2026-10-25 02:15", fold=fold).astimezone(UTC) for fold in (0, 1))
    assert opens_at(twice, local("2026-10-25 00:00")) == first
    closing = closes_at(twice, first)
    assert closing == first + timedelta(minutes=30)
    assert opens_at(twice, closing) == second == first + timedelta(hours=1)


# ---- the property

SPANS = st.builds(
    Span,
    days=st.frozensets(st.integers(0, 6), min_size=1),
    start=st.integers(0, 1439),
    end=st.integers(1, 1440),
).filter(lambda span: span.start != span.end)
ZONES = st.sampled_from(
    [None, BERLIN, NEW_YORK, KOLKATA, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/Santiago")]
)
NIGHTS = st.sampled_from(
    ["2026-03-07", "2026-03-28", "2026-04-04", "2026-09-05", "2026-10-03", "2026-10-24", "2026-11-01"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SPANS, max_size=3), st.lists(SPANS, max_size=2), ZONES, NIGHTS, st.integers(0, 48 * 60))
def test_the_answer_is_what_looking_at_every_minute_would_find(
    windows: list[Span], quiet: list[Span], zone: ZoneInfo | None, night: str, minutes: int
) -> None:
    try:
        times = Hours(windows=tuple(windows), quiet=tuple(quiet), zone=zone)
    except ValueError:
        return
    now = utc(f"{night} 00:00") + timedelta(minutes=minutes)
    day = [now + timedelta(minutes=minute) for minute in range(36 * 60)]
    opening, closing = opens_at(times, now), closes_at(times, now)
    assert next((minute for minute in day if is_open(times, minute)), opening) == opening
    assert next((minute for minute in day if not is_open(times, minute)), closing) == closing
    assert is_open(times, opening)
