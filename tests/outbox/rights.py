"""Who may do what: attempts with each role, and the database's answer. `docs/security.md` shows this table.

    uv run python tests/outbox/rights.py --write      # after a change here

An attempt is one statement. `{own}` and `{other}` are ids of rows that the application itself, and another one, wrote.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- rights: begin (written by tests/outbox/rights.py --write) -->", "<!-- rights: end -->"
SERVERS = {"postgresql": "PostgreSQL", "mariadb": "MariaDB"}
Role = Literal["outbox_app", "outbox_reader", "outbox_poller"]
APP, READER, POLLER = "outbox_app", "outbox_reader", "outbox_poller"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """`says` is in words what it is for; `statements` by server, where it has one."""

    role: str
    says: str
    allowed: bool
    statements: dict[str, str]


def _each(role: str, says: str, statement: str, *, allowed: bool = False) -> Attempt:
    return Attempt(role=role, says=says, allowed=allowed, statements=dict.fromkeys(SERVERS, statement))


def _pg(role: str, says: str, statement: str, *, allowed: bool = False) -> Attempt:
    return Attempt(role=role, says=says, allowed=allowed, statements={"postgresql": statement})


def _my(role: str, says: str, statement: str, *, allowed: bool = False) -> Attempt:
    return Attempt(role=role, says=says, allowed=allowed, statements={"mariadb": statement})


_ROW = "INSERT INTO outbox (recipients, body_text{0}) VALUES ('a@example.com', 'x'{1})"
_LEFT = "INSERT INTO outbox_unsubscribed (address, list, source) VALUES ({0}, 'news', {1})"
_FILE = "INSERT INTO outbox_attachment (outbox_id, name, content) VALUES ({0}, 'a.txt', 'x')"

APPLICATION = (
    _each(APP, "writes a row", _ROW.format("", ""), allowed=True),
    _each(
        APP,
        "writes a whole message",
        "INSERT INTO outbox (recipients, raw) VALUES ('a@example.com', 'x')",
        allowed=True,
    ),
    _each(APP, "writes a row with a dedupe_key", _ROW.format(", dedupe_key", ", 'k1'"), allowed=True),
    _each(APP, "adds a file to its own row", _FILE.format("{own}"), allowed=True),
    _each(APP, "enters who has left a list", _LEFT.format("'a@example.com'", "'unsubscribe'"), allowed=True),
    _each(APP, "reads whom it has entered itself", "SELECT address, list FROM outbox_unsubscribed", allowed=True),
    _each(
        APP, "takes back what it has entered", "DELETE FROM outbox_unsubscribed WHERE address = 'a@b.c'", allowed=True
    ),
    _each(APP, "reads the state of its rows", "SELECT status, error FROM outbox_state", allowed=True),
    _pg(APP, "gets the id of what it writes", _ROW.format("", "") + " RETURNING id", allowed=True),
    _pg(
        APP, "leaves out what is there", _ROW.format(", dedupe_key", ", 'k1'") + " ON CONFLICT DO NOTHING", allowed=True
    ),
    _my(
        APP,
        "leaves out what is there",
        _ROW.format(", dedupe_key", ", 'k1'").replace("INTO", "IGNORE INTO", 1),
        allowed=True,
    ),
    _pg(APP, "cancels what waits under its key", "SELECT outbox_cancel('k1')", allowed=True),
    _pg(APP, "replaces what waits under its key", "SELECT outbox_replace('k1')", allowed=True),
    _my(APP, "cancels what waits under its key", "CALL outbox_cancel('k1')", allowed=True),
    _my(APP, "replaces what waits under its key", "CALL outbox_replace('k1')", allowed=True),
    _each(APP, "adds a file to another's row", _FILE.format("{other}")),
    _each(APP, "writes a row as another", _ROW.format(", created_by", ", 'somebody'")),
    _each(APP, "writes a row that is sent already", _ROW.format(", status", ", 'sent'")),
    _each(APP, "writes a row with attempts", _ROW.format(", attempts", ", 3")),
    _each(APP, "writes a row with an id of its choice", _ROW.format(", id", ", 1000000")),
    _each(APP, "reads addresses", "SELECT recipients FROM outbox"),
    _each(APP, "reads bodies", "SELECT body_text FROM outbox"),
    _each(APP, "reads dedupe keys", "SELECT dedupe_key FROM outbox"),
    _each(APP, "reads whole rows", "SELECT * FROM outbox"),
    _each(APP, "reads the rows without bodies", "SELECT * FROM outbox_rows"),
    _each(APP, "reads files", "SELECT content FROM outbox_attachment"),
    _each(APP, "reads shared files", "SELECT content FROM outbox_blob"),
    _each(APP, "deletes a shared file", "DELETE FROM outbox_blob"),
    _each(APP, "reads what is kept of messages", "SELECT message FROM outbox_content"),
    _each(APP, "reads recipients", "SELECT address FROM outbox_recipient"),
    _each(APP, "reads the history", "SELECT error FROM outbox_attempt"),
    _each(APP, "reads the key of Message-IDs", "SELECT value FROM outbox_meta"),
    _each(APP, "reads the workers", "SELECT * FROM outbox_worker"),
    _each(APP, "reads the suppression list", "SELECT * FROM outbox_suppression"),
    _each(APP, "puts somebody on the suppression list", "INSERT INTO outbox_suppression (address) VALUES ('a@b.c')"),
    _each(APP, "takes somebody off the suppression list", "DELETE FROM outbox_suppression"),
    _each(APP, "changes what it has entered", "UPDATE outbox_unsubscribed SET list = 'offers'"),
    _each(APP, "cancels rows", "UPDATE outbox SET status = 'cancelled'"),
    _each(APP, "moves its row to the front", "UPDATE outbox SET priority = 0 WHERE id = {own}"),
    _each(APP, "deletes its row", "DELETE FROM outbox WHERE id = {own}"),
    _each(APP, "deletes a file", "DELETE FROM outbox_attachment WHERE outbox_id = {other}"),
    _each(APP, "locks rows", "SELECT id FROM outbox FOR UPDATE"),
    _each(APP, "switches the outbox off", "INSERT INTO outbox_meta (name, value) VALUES ('paused', 'x')"),
    _each(APP, "lifts a pause", "UPDATE outbox_throttle SET paused_until = NULL"),
    _each(APP, "drops a table", "DROP TABLE outbox_attempt"),
    _each(APP, "adds a trigger's table", "CREATE TABLE outbox_mine (id int)"),
    _pg(APP, "locks the table", "LOCK TABLE outbox IN EXCLUSIVE MODE"),
    _pg(APP, "empties the table", "TRUNCATE outbox"),
    _pg(APP, "makes a trigger", "CREATE TRIGGER mine BEFORE INSERT ON outbox EXECUTE FUNCTION outbox_own_files()"),
    _pg(APP, "makes a function", "CREATE FUNCTION convert_to(text, text) RETURNS bytea LANGUAGE sql AS 'SELECT NULL'"),
    _pg(
        APP,
        "makes an operator's function",
        "CREATE FUNCTION mine(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    ),
    _pg(APP, "switches the file's rule off", "ALTER TABLE outbox_attachment DISABLE TRIGGER ALL"),
    _pg(APP, "becomes the poller", "SET ROLE outbox_poller"),
    _pg(APP, "gives itself a role", "GRANT outbox_poller TO CURRENT_USER"),
    _pg(APP, "copies the table out", "COPY outbox TO STDOUT"),
    _pg(APP, "runs a program", "COPY (SELECT 1) TO PROGRAM 'true'"),
    _pg(APP, "reads a file of the server", "SELECT pg_read_file('/etc/hostname')"),
    _my(APP, "opens a handler", "HANDLER outbox OPEN"),
    _my(APP, "locks the table", "LOCK TABLES outbox READ"),
    _my(APP, "locks the table for writing", "LOCK TABLES outbox WRITE"),
    _my(APP, "empties the table", "TRUNCATE outbox"),
    _my(APP, "makes a trigger", "CREATE TRIGGER mine BEFORE INSERT ON outbox FOR EACH ROW SET NEW.subject = 'x'"),
    _my(APP, "drops the file's rule", "DROP TRIGGER outbox_own_files"),
    _my(APP, "makes a function", "CREATE FUNCTION mine() RETURNS int RETURN 1"),
    _my(APP, "becomes the poller", "SET ROLE outbox_poller"),
    _my(APP, "gives itself a role", "GRANT outbox_poller TO CURRENT_USER()"),
    _my(APP, "writes a file of the server", "SELECT 1 INTO OUTFILE '/tmp/outbox_mine'"),
    _my(APP, "sets a server's variable", "SET GLOBAL sql_mode = ''"),
)

READING = (
    _each(READER, "reads the rows without bodies", "SELECT recipients, error FROM outbox_rows", allowed=True),
    _each(READER, "reads recipients", "SELECT * FROM outbox_recipients", allowed=True),
    _each(READER, "reads the history", "SELECT * FROM outbox_attempts", allowed=True),
    _each(READER, "reads the names of files", "SELECT name FROM outbox_files", allowed=True),
    _each(READER, "reads the workers", "SELECT * FROM outbox_workers", allowed=True),
    _each(READER, "reads what is stuck", "SELECT * FROM outbox_stuck", allowed=True),
    _each(READER, "reads the suppression list", "SELECT * FROM outbox_suppressions", allowed=True),
    _each(READER, "reads bodies", "SELECT body_text FROM outbox"),
    _each(READER, "reads HTML", "SELECT body_html FROM outbox"),
    _each(READER, "reads raw messages", "SELECT raw FROM outbox"),
    _each(READER, "reads variables", "SELECT context FROM outbox"),
    _each(READER, "reads whole rows", "SELECT * FROM outbox"),
    _each(READER, "reads files", "SELECT content FROM outbox_attachment"),
    _each(READER, "reads shared files", "SELECT content FROM outbox_blob"),
    _each(READER, "reads what is kept of messages", "SELECT message FROM outbox_content"),
    _each(READER, "reads the key of Message-IDs", "SELECT value FROM outbox_meta"),
    _each(READER, "writes a row", _ROW.format("", "")),
    _each(READER, "cancels rows", "UPDATE outbox SET status = 'cancelled'"),
    _each(READER, "deletes rows", "DELETE FROM outbox"),
    _each(READER, "changes history", "UPDATE outbox_attempt SET error = 'x'"),
    _each(READER, "locks rows", "SELECT id FROM outbox FOR UPDATE"),
    _each(READER, "locks a worker's row", "SELECT name FROM outbox_worker FOR UPDATE"),
    _each(READER, "locks a limit", "SELECT name FROM outbox_throttle FOR UPDATE"),
    _each(READER, "drops a view", "DROP VIEW outbox_now"),
    _pg(READER, "cancels by key", "SELECT outbox_cancel('k1')"),
    _my(READER, "cancels by key", "CALL outbox_cancel('k1')"),
    _pg(READER, "locks the table", "LOCK TABLE outbox IN SHARE MODE"),
    _pg(READER, "makes a function", "CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS 'SELECT 1'"),
    _pg(READER, "becomes the poller", "SET ROLE outbox_poller"),
    _my(READER, "opens a handler on the rows", "HANDLER outbox OPEN"),
    _my(READER, "opens a handler on the files", "HANDLER outbox_attachment OPEN"),
    _my(READER, "opens a handler on the secrets", "HANDLER outbox_meta OPEN"),
    _my(READER, "locks the table", "LOCK TABLES outbox READ"),
    _my(READER, "becomes the poller", "SET ROLE outbox_poller"),
)

WORKING = (
    _each(POLLER, "reads and writes rows", "UPDATE outbox SET batch = 'b' WHERE id = {own}", allowed=True),
    _each(POLLER, "locks rows", "SELECT id FROM outbox FOR UPDATE", allowed=True),
    _each(POLLER, "deletes old history", "DELETE FROM outbox_attempt WHERE id < 0", allowed=True),
    _each(POLLER, "switches the outbox off and on", "DELETE FROM outbox_meta WHERE name = 'paused'", allowed=True),
    _each(POLLER, "changes history", "UPDATE outbox_attempt SET error = 'x'"),
    _each(POLLER, "changes a file", "UPDATE outbox_attachment SET name = 'x'"),
    _each(POLLER, "drops a table", "DROP TABLE outbox_attempt"),
    _each(POLLER, "adds a column", "ALTER TABLE outbox ADD COLUMN x int"),
    _each(POLLER, "adds an index", "CREATE INDEX x ON outbox (id)"),
    _pg(POLLER, "empties the table", "TRUNCATE outbox"),
    _pg(POLLER, "makes a function", "CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS 'SELECT 1'"),
    _my(POLLER, "empties the table", "TRUNCATE outbox"),
    _my(POLLER, "makes a trigger", "CREATE TRIGGER mine BEFORE INSERT ON outbox FOR EACH ROW SET NEW.subject = 'x'"),
    _my(POLLER, "sets a server's variable", "SET GLOBAL sql_mode = ''"),
)

ATTEMPTS = (*APPLICATION, *READING, *WORKING)


def page_table() -> str:
    """As docs/security.md shows it."""
    lines = ["| role | tries | PostgreSQL | MariaDB |", "|---|---|---|---|"]
    by_words: dict[tuple[str, str, bool], dict[str, str]] = {}
    for attempt in ATTEMPTS:
        by_words.setdefault((attempt.role, attempt.says, attempt.allowed), {}).update(attempt.statements)
    for (role, says, allowed), statements in by_words.items():
        answer = "done" if allowed else "denied"
        cells = [answer if server in statements else "" for server in SERVERS]
        lines.append(f"| `{role}` | {says} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown() -> str:
    """What the page has now."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def write() -> None:
    """Put the table on the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{page_table()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
