"""Whatever a database lets into a row, in any column: it stops nobody, is named, and can be looked at.

Each run writes rows that differ from a good one in one column, as raw SQL, so that no driver mends them. What the
database refuses is not ours. The worker must send the good rows, be done with every other one, and log no failure of
its own; `show`, `explain` and `status` must live.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from dataclasses import asdict
from typing import TYPE_CHECKING

import sqlalchemy as sa
from click.testing import CliRunner
from servers.fault import FaultServer

from poller.answers.reasons import Reasons
from poller.cli import look, main, raw
from poller.cli.session import Stop, as_json
from poller.config.load import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

EXAMPLES = int(os.environ.get("POLLER_TEST_EXAMPLES", "3"))
"""Random values for each column, beside those that are known to be hard."""
TEXTS = (
    *("recipients", "cc", "bcc", "sender", "reply_to", "envelope_from", "subject", "body_text", "body_html"),
    *("template", "locale", "message_id", "relay", "batch", "dedupe_key", "created_by", "raw"),
)
JSONS = ("context", "headers", "dsn")
OTHERS = ("priority", "due_at", "expires_at", "max_attempts", "on_doubt", "created_at", "status")
FILES = ("name", "content", "content_type", "content_id")
HARD_TEXTS = (
    *(
        "",
        " ",
        "\x1b[31mred",
        "\u202eevil",
        "\ufeffa@b.example",
        "=?utf-8?q?=0D=0ABcc:_x?=",
        "[/policy] [red]x",
        "\\",
        "'",
    ),
    *("a@b.example, " * 300, "a" * 5000, "é" * 3000, '"' * 500, "(" * 500, "<" * 500, "[" * 300, "{{ a }}{% for %}"),
    *("x@münchen.example", "=?x?q?" * 500, "<a " * 500, "\U000e0001\U0001f600" * 50, "\x85\x0b\x0c", "%s %(a)s {0} $1"),
)
BRACES = '{"b":' * 500
HARD_JSONS = (
    *('{"a": 1e5000}', '{"a": -1e5000}', '{"a": 1e-5000}', '{"a": %s}' % ("9" * 5000), '{"a": 1e400}', "{}", "[]", "1"),
    *(r'{"X-Path": "C:\data"}', r'{"a": "\x41"}', r'{"X-A": "\ud800"}', r'{"X-A": "\u0000"}', r'{"\ud800": 1}'),
    *(
        f'{{"a": {"[" * 990}1{"]" * 990}}}',
        f'{{"a": {BRACES}1{"}" * 500}}}',
        '{"a": 1, "a": 2}',
        '{"": ""}',
    ),
    *('{"X-A": "a\nb\tc"}', '{"a": NaN}', '{"a": Infinity}', '{"X-A": [[]]}', '{"X-A": {}}', '{"X-A": null}', "null"),
    *('{"X-A": 0.1e-7, "X-B": true}', '{"X-A": "%s"}' % ("b" * 3000), '{"__class__": 1, "n": {"items": 3}}'),
)
RAW: dict[str, tuple[str, ...]] = {
    "sqlite": (
        *(
            "CAST(x'ff00fe' AS TEXT)",
            "CAST(x'eda080' AS TEXT)",
            "x'00ff'",
            "9e999",
            "-1",
            "'a' || char(0) || 'b'",
            "1.5",
        ),
        *("""'{"a":1}' || char(0) || 'x'""", """CAST('{"X-A": "' || x'ff' || '"}' AS TEXT)""", "9223372036854775807"),
        *("""'{"a":' || printf('%.*c', 5000, '9') || '}'""", "'20000-01-01'", "'2026-02-31 00:00:00'", "'now'"),
    ),
    "postgresql": (
        *(
            "U&'\\0085\\feff'",
            "chr(1114111)",
            "-1",
            "'infinity'",
            "'-infinity'",
            "'20000-01-01Z'",
            "'0044-03-15 BC'",
            "32767",
        ),
        *("'{\"a\": 1e130000}'", "'2147483647'", "'epsilon'"),
    ),
    "mariadb": (
        *(
            "x'ff00fe'",
            "_utf8mb4 x'f48fbfbf'",
            "'a\\0b'",
            "-1",
            "'0000-00-00'",
            "'2026-11-00'",
            "'9999-12-31 23:59:59'",
        ),
        *("2147483647", """'{"X-Path": "C:\\\\data"}'""", """'{"a": "\\\\d"}'""", """'{"a": "\\\\u00"}'""", "1e300"),
    ),
}


def literal(kind: str, text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'" if kind != "mariadb" else "'{}'".format(doubled.replace("\\", "\\\\"))


def texts(kind: str, chance: random.Random) -> Iterator[str]:
    yield from (literal(kind, text) for text in HARD_TEXTS)
    alphabet = "ab@.,;:<>()[]\"'\\=? \t\r\n\x00\x1b\x7fé€\u200f\ud7ff😀{}%-_"
    for _ in range(EXAMPLES):
        yield literal(kind, "".join(chance.choice(alphabet) for _ in range(chance.randrange(60))))


def jsons(kind: str, chance: random.Random) -> Iterator[str]:
    yield from (literal(kind, text) for text in HARD_JSONS)
    for _ in range(EXAMPLES):
        text = json.dumps(
            {"X-A": chance.choice([chance.random() * 10**300, "é\ud800\\", [1, ["x"]], {"n": None}, "a\nb"])}
        )
        at = chance.randrange(len(text))
        yield literal(kind, text[:at] + chance.choice(["", "\\", "0", "e9", '"', "\x01", "é"]) + text[at:])


def values(kind: str, column: str, chance: random.Random) -> Iterator[str]:
    if column in (*TEXTS, *FILES):
        yield from texts(kind, chance)
    if column in JSONS:
        yield from jsons(kind, chance)
    yield from RAW[kind]


def statements(kind: str, column: str, value: str) -> Iterator[str]:
    """A good row but for one column, of itself or of its file."""
    row = {"recipients": "'you@example.com'", "subject": "'Hello'", "body_text": "'Text'"}
    if column == "context":
        row |= {"template": "'hello'", "body_text": "NULL"}
    if column in {"body_html", "raw", "dsn"}:
        row["body_text"] = "NULL"
    if column == "dsn":
        row["raw"] = "x'48690a'" if kind != "postgresql" else "'Hi'"
    if column not in FILES:
        row[column] = value
    yield f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    if column in FILES:
        file = {"outbox_id": "(SELECT max(id) FROM outbox)", "name": "'a'", "content": "'x'", column: value}
        yield f"INSERT INTO outbox_attachment ({', '.join(file)}) VALUES ({', '.join(file.values())})"


def rows(bench: Bench, kind: str) -> dict[int, tuple[str, str]]:
    """What was let in, by row id: column and value."""
    chance = random.Random(f"{kind} {EXAMPLES}")
    let_in: dict[int, tuple[str, str]] = {}
    with bench.engine.begin() as connection:
        for column in (*TEXTS, *JSONS, *OTHERS, *FILES):
            for value in values(kind, column, chance):
                try:
                    with connection.begin_nested():
                        for insert in statements(kind, column, value):
                            connection.exec_driver_sql(insert.replace("%", "%%") if kind != "sqlite" else insert)
                        row_id = connection.exec_driver_sql("SELECT max(id) FROM outbox").scalar_one()
                except (sa.exc.DBAPIError, ValueError):
                    continue
                let_in[int(row_id)] = column, value[:100]
    return let_in


def test_no_row_stops_another_and_each_can_be_looked_at(bench: Bench, kind: str) -> None:
    odd = rows(bench, kind)
    assert len(odd) > 300
    good = bench.insert(5, priority=9)
    directory = bench.directory / "templates"
    directory.mkdir()
    (directory / "hello.txt").write_text("{% for name, value in vars.items() %}{{ value }}{% endfor %}{{ a }}{{ b }}\n")
    with FaultServer() as server:
        config = bench.configure(server.host, server.port, templates={"directory": str(directory)})
        bench.run(config, "--once")
    failures = [line for line in bench.log() if line["event"] in {"tick.failed", "program.bug"} or "traceback" in line]
    assert failures == []
    assert {bench.row(row_id).status for row_id in good} == {"sent"}
    ended = {row.id: (row.status, row.error) for row in bench.rows()}
    unfinished = {
        row_id: (odd[row_id], ended[row_id])
        for row_id in odd
        if ended[row_id][0] == "sending" or (ended[row_id][0] in {"failed", "in_doubt"} and not ended[row_id][1])
    }
    assert unfinished == {}
    loaded = load(config, {})
    for row_id in odd:
        told = look._story(bench.engine, row_id)
        as_json(asdict(told))
        look._show_story(told)
        list(Reasons(loaded, bench.engine, told).lines())
        with contextlib.suppress(Stop):
            raw.show_raw(loaded, bench.engine, told)
    said = CliRunner().invoke(main, ["--config", str(config), "status"])
    assert said.exit_code in {0, 1}
    assert not isinstance(said.exception, Exception)
