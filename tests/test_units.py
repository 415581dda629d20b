"""Durations and sizes, as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from poller.units import (
    Count,
    Factor,
    Port,
    Rate,
    Seconds,
    SecondsOrZero,
    Share,
    format_duration,
    format_rate,
    parse_duration,
    parse_rate,
    parse_size,
)

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("5d", 432_000.0),
        ("1h30m", 5400.0),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, 10_000), st.sampled_from(sorted(UNITS)))
def test_every_unit_counts(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * UNITS[unit])


@pytest.mark.parametrize("text", ["36501d", "99999999d", "9" * 400 + "s"])
def test_a_duration_that_no_time_can_be_away_is_refused_wherever_it_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="at most 36500d"):
        parse_duration(text)


@pytest.mark.parametrize(
    "value", ["", "5", "s", "5 s", "5S", "5sec", "-5s", "+5s", "1e3s", "5s\n", ".5s", 5, 5.0, True, None]
)
def test_anything_else_is_refused_with_the_remedy(value: object) -> None:
    with pytest.raises(ValueError, match=r'^not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"$'):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59, "59s"),
        (60, "1m"),
        (90, "1m30s"),
        (86400, "1d"),
        (129_600, "1d12h"),
    ],
)
def test_a_duration_is_written_in_its_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(
    st.integers(0, 400), st.sampled_from([("s", 1, 60), ("m", 60, 60), ("h", 3600, 24), ("d", 86400, 999)]), st.data()
)
def test_a_duration_of_two_neighbouring_units_is_read_back_as_it_was(
    count: int, unit: tuple[str, int, int], data: st.DataObject
) -> None:
    _, size, limit = unit
    smaller = {1: 0, 60: 1, 3600: 60, 86400: 3600}[size]
    seconds = count % limit * size + smaller * data.draw(st.integers(0, 23 if size == 86400 else 59))
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 999))
def test_milliseconds_are_read_back_as_they_were(count: int) -> None:
    assert parse_duration(format_duration(count / 1000)) == pytest.approx(count / 1000)


@given(st.floats(0.001, 1e9))
@example(59.96)
@example(3661.0)
def test_whatever_is_written_can_be_read_and_is_near(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9996, "1s"),
        (0.9994, "999ms"),
        (59.4, "59.4s"),
        (59.96, "1m"),
        (3599.6, "1h"),
        (3661, "1h1m"),
        (86_399, "23h59m"),
        (0.000_01, "0.01ms"),
        (1e-12, "0ms"),
    ],
)
def test_a_duration_is_cut_to_what_a_person_wants_to_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"), [("25MB", 25_000_000), ("512KB", 512_000), ("1 GB", 10**9), ("7B", 7), ("7", 7), (7, 7), (0, 0)]
)
def test_a_size_is_a_number_and_its_unit_in_powers_of_ten(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "MB", "1.5MB", "-1", "1TB", "1mb", -1, 1.0, True, None])
def test_no_other_size_is_taken(value: object) -> None:
    with pytest.raises(ValueError, match=r'^not a size; write it like "25MB", "512KB" or a whole number of bytes$'):
        parse_size(value)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Count, 0, "too small; at least 1"),
        (Count, "0", "too small; at least 1"),
        (Port, 65_536, "too large; at most 65535"),
        (Factor, 0.5, "too small; at least 1.0"),
        (Factor, "0.5", "too small; at least 1.0"),
        (Factor, float("nan"), "not a number"),
        (Factor, "nan", "not a number"),
        (Share, float("inf"), "too large; at most 1.0"),
        (Share, "-1", "too small; at least 0.0"),
        (Seconds, "0s", "too small; at least 1ms"),
        (Seconds, "36501d", "too large; at most 36500d"),
        (SecondsOrZero, "9" * 400 + "s", "too large; at most 36500d"),
    ],
)
def test_bounds_hold_for_numbers_and_for_text_from_the_environment(kind: Any, value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=f"Value error, {words} "):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value", "number"),
    [
        (Count, "7", 7),
        (Factor, 2, 2.0),
        (Share, 1, 1.0),
        (Seconds, "36500d", 3_153_600_000.0),
        (SecondsOrZero, "0s", 0.0),
    ],
)
def test_what_lies_within_the_bounds_is_taken(kind: Any, value: object, number: float) -> None:
    assert TypeAdapter(kind).validate_python(value) == number


# ---- rates


@pytest.mark.parametrize(
    ("text", "count", "period"),
    [
        ("2/s", 2, 1),
        ("30/m", 30, 60),
        ("1000/h", 1000, 3600),
        ("10000/d", 10_000, 86_400),
        ("100/15m", 100, 900),
        ("20/17s", 20, 17),
    ],
)
def test_a_rate_is_a_count_and_the_time_it_holds_for(text: str, count: int, period: int) -> None:
    assert parse_rate(text) == Rate(count=count, period=period)
    assert format_rate(Rate(count=count, period=period)) == text


@pytest.mark.parametrize(
    "value",
    ["", "30", "30/", "/m", "30/w", "30/M", "30 / m", "-1/m", "+1/m", "1.5/m", "30/m\n", "٣/m", 30, None, ["30/m"]],
)
def test_what_is_no_rate_is_refused_with_the_remedy(value: object) -> None:
    with pytest.raises(
        ValueError, match=r'^not a rate; write it like "2/s", "30/m", "100/15m", "1000/h" or "10000/d"$'
    ):
        parse_rate(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0/m", "a rate of zero would send nothing, ever; to stop mail use poller pause"),
        ("1/0s", "not a rate to hold"),
        ("1/367d", "not a rate to hold"),
        ("1000000001/d", "not a rate to hold"),
    ],
)
def test_a_rate_that_nobody_could_hold_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        parse_rate(text)


@given(st.builds(Rate, count=st.integers(1, 1_000_000_000), period=st.integers(1, 366 * 86_400)))
def test_every_rate_is_read_back_as_it_was_written(rate: Rate) -> None:
    assert parse_rate(format_rate(rate)) == rate


def test_pydantic_reads_a_rate_as_it_is_written() -> None:
    assert TypeAdapter(tuple[Rate, ...]).validate_json('["30/m", "2/s"]', strict=True) == (Rate(60, 30), Rate(1, 2))
    with pytest.raises(ValidationError, match="not a rate"):
        TypeAdapter(Rate).validate_json("30", strict=True)
