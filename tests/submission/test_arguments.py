"""What sendmail is told, as real programs tell it."""

from __future__ import annotations

from typing import Any

import pytest

from poller.submission.arguments import Arguments, Mode, read, until_dot


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-t -i", {"from_header": True, "dot_ends": False}),
        (
            "-oi -t -f me@x.test",
            {"from_header": True, "dot_ends": False, "sender": "me@x.test"},
        ),  # PHPMailer, WordPress
        (
            "-i -FCronDaemon -B8BITMIME -oem root",
            {"dot_ends": False, "full_name": "CronDaemon", "recipients": ("root",)},
        ),
        ("-i -t -fme@x.test", {"from_header": True, "dot_ends": False, "sender": "me@x.test"}),
        ("-f<> a@b.test", {"sender": "", "recipients": ("a@b.test",)}),
        (
            "-r me@x.test -oem -oi -- -odd@x.test",
            {"sender": "me@x.test", "dot_ends": False, "recipients": ("-odd@x.test",)},
        ),
        ("-ti", {"from_header": True, "dot_ends": False}),
        (
            "-N success,delay -R hdrs -V id7 -O DeliveryMode=b -X /tmp/x a@b.test c@d.test",
            {"notify": "success,delay", "ret": "hdrs", "envid": "id7", "recipients": ("a@b.test", "c@d.test")},
        ),
        ("-bm -v a@b.test", {"recipients": ("a@b.test",)}),
        ("-bp", {"mode": Mode.QUEUE}),
        ("-bi", {"mode": Mode.NOTHING}),
        ("-q30m", {"mode": Mode.NOTHING}),
        ("", {}),
    ],
)
def test_flags_mean_what_they_mean_to_sendmail(line: str, expected: dict[str, Any]) -> None:
    assert read(line.split()) == Arguments(**expected)


@pytest.mark.parametrize("line", ["-bs", "-bd", "-Y", "-f"])
def test_what_is_not_offered_is_an_error_and_never_a_recipient(line: str) -> None:
    with pytest.raises(ValueError, match=r"^-"):
        read(line.split())


def test_without_i_a_dot_alone_ends_the_message() -> None:
    assert until_dot(b"a\n.b\n.\nc\n") == b"a\n.b\n"
    assert until_dot(b"a\r\n.\r\n") == b"a\r\n"
    assert until_dot(b"a\n..\n") == b"a\n..\n"
