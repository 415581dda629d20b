"""Replies: any bytes in, the same replies out, bounded and printable."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.exchange import Reply
from poller.smtp.replies import MAX_LINE, MAX_LINES, MAX_WAITING, Features, NotSmtp, RawReply, ReplyReader


def read_all(pieces: list[bytes]) -> tuple[list[RawReply], bool]:
    """Every reply, and whether garbage ended them."""
    reader = ReplyReader()
    replies: list[RawReply] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (reply := reader.take()) is not None:
                replies.append(reply)
    except NotSmtp:
        return replies, True
    return replies, False


def read_one(data: bytes) -> Reply:
    replies, garbage = read_all([data])
    assert not garbage
    return replies[0].reply


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


LINES = st.builds(
    lambda code, sep, text, end: b"%d%s%s%s" % (code, sep, text, end),
    st.integers(100, 700),
    st.sampled_from([b" ", b"-", b"", b"\t"]),
    st.binary(max_size=20) | st.sampled_from([b"2.1.0 Ok", b"5.7.26 no", b"SIZE 100"]),
    st.sampled_from([b"\r\n", b"\n"]),
)


@given(st.lists(LINES | st.sampled_from([b"250-a\r\n", b"250 b\r\n", b"354 go\r\n"])), st.lists(st.integers(0, 10_000)))
def test_however_the_bytes_are_cut_the_same_replies_come_out(lines: list[bytes], places: list[int]) -> None:
    data = b"".join(lines)
    assert read_all(cut(data, places)) == read_all([data])


@given(st.lists(st.binary()))
def test_no_bytes_make_the_reader_fail_other_than_as_no_smtp_reply(pieces: list[bytes]) -> None:
    for reply in read_all(pieces)[0]:
        fact = reply.reply
        assert 200 <= fact.code <= 599
        assert fact.text.isprintable()
        assert fact.text.isascii()
        assert len(fact.text) <= 1000


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 2.1.0 Ok\r\n", Reply(code=250, status="2.1.0", text="Ok")),
        (b"250\r\n", Reply(code=250)),
        (b"250 \n", Reply(code=250)),
        (b"421-4.7.0 one\r\n421 4.7.0 two\r\n", Reply(code=421, status="4.7.0", text="one two")),
        (b"550-no\r\n550 5.1.1 such user\r\n", Reply(code=550, status="5.1.1", text="no such user")),
        (b"550 4.2.1 odd\r\n", Reply(code=550, text="4.2.1 odd")),
        (b"354 5.0.0 go\r\n", Reply(code=354, text="5.0.0 go")),
        (b"550 5.1.1\r\n", Reply(code=550, status="5.1.1")),
        (b"550 5.1.12345 no\r\n", Reply(code=550, text="5.1.12345 no")),
        (b"550 caf\xc3\xa9\x00\x1b[0m\r\n", Reply(code=550, text="caf\\xc3\\xa9\\x00\\x1b[0m")),
        (b"550 " + b"x" * 1500 + b"\r\n", Reply(code=550, text="x" * 1000)),
    ],
)
def test_a_reply_is_read_with_its_status_and_printable_text(data: bytes, expected: Reply) -> None:
    assert read_one(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x01\x00\x02",
        b"199 too low\r\n",
        b"600 too high\r\n",
        b"25 short\r\n",
        b"\r\n",
        b"250-a\r\n251 b\r\n",
        b"250 " + b"x" * MAX_LINE,
        b"250-a\r\n" * (MAX_LINES + 1),
    ],
)
def test_what_is_no_smtp_reply_is_refused(data: bytes) -> None:
    assert read_all([data]) == ([], True)


def test_what_waits_unread_is_bounded() -> None:
    reader = ReplyReader()
    reader.feed(b"250 ok\r\n" * (MAX_WAITING // 8))
    with pytest.raises(NotSmtp, match="nobody asked"):
        reader.feed(b"x")


def test_the_reader_knows_whether_anything_waits() -> None:
    reader = ReplyReader()
    seen = [reader.is_empty]
    reader.feed(b"220 go\r\n250")
    assert reader.take() is not None
    seen.append(reader.is_empty)
    reader.feed(b"-more\r\n")
    assert reader.take() is None
    seen.append(reader.is_empty)
    reader.feed(b"250 end\r\n")
    assert reader.take() is not None
    assert [*seen, reader.is_empty] == [True, False, False, True]


def test_features_are_read_from_the_answer_to_ehlo() -> None:
    data = (
        b"250-mx.test at your service\r\n250-PIPELINING\r\n250-SIZE 35882577\r\n250-8bitmime\r\n"
        b"250-STARTTLS\r\n250-AUTH LOGIN plain\r\n250-AUTH=XOAUTH2\r\n"
        b"250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n"
    )
    assert Features.read(read_all([data])[0][0]) == Features(
        name="mx.test",
        pipelining=True,
        size=True,
        size_limit=35882577,
        eight_bit_mime=True,
        smtputf8=True,
        starttls=True,
        auth=frozenset({"LOGIN", "PLAIN", "XOAUTH2"}),
        chunking=True,
        enhanced_status_codes=True,
        dsn=True,
        keywords=(
            *("PIPELINING", "SIZE", "8BITMIME", "STARTTLS", "AUTH"),
            *("ENHANCEDSTATUSCODES", "DSN", "CHUNKING", "SMTPUTF8"),
        ),
    )


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), min_size=1, max_size=20))
def test_no_answer_to_ehlo_makes_reading_the_features_fail(lines: list[bytes]) -> None:
    Features.read(RawReply(250, tuple(lines)))


@pytest.mark.parametrize("line", [b"250OK", b"250\tOK", b"250 OK", b"250-OK\r\n250"])
def test_a_reply_is_read_by_its_code(line: bytes) -> None:
    assert read_one(line + b"\r\n") == Reply(code=250, text="OK")


@pytest.mark.parametrize("line", [b"2500 OK", b"25 OK", b"HTTP/1.1 400"])
def test_what_does_not_begin_with_a_code_is_no_reply(line: bytes) -> None:
    assert read_all([line + b"\r\n"]) == ([], True)
