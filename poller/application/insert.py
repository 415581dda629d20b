"""Rows go in: one at a time, or set-wise.

Rule 1. A million are held by nobody: they are taken from the caller in chunks, each of ROWS rows or BYTES at most. His
        iterable is read between statements, never amid a COPY: it may use the same connection.
Rule 2. PostgreSQL gets them by COPY where the driver can and no id is asked for; else many rows stand in one statement.
Rule 3. Ids cost: they are fetched only when asked for, or when files have to name their rows.
Rule 4. Rows keep their order, but for those of one chunk that differ in which of `priority`, `due_at` and `created_at`
        they give: the others leave these to the table's defaults.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from poller.application import keys
from poller.application.refusals import Duplicate
from poller.columns import APPLICATION_COLUMNS, FILE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from poller.application.keys import Tables
    from poller.application.links import Link
    from poller.application.mail import Mail

ROWS = 1000  # to a chunk; more of them save nothing
BYTES = 2_000_000  # characters, about: MariaDB takes 16 MB at once, MySQL's oldest default is 4
_PARAMETERS = 60_000  # PostgreSQL takes 65,535 to a statement
_BY_DEFAULT = tuple(map(APPLICATION_COLUMNS.index, ("priority", "due_at", "created_at")))
"""The table fills them in, and NULL is refused."""
_TIMES = tuple(map(APPLICATION_COLUMNS.index, ("due_at", "expires_at", "created_at")))
_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"


def add(link: Link, tables: Tables, mail: Mail, *, existing: bool) -> int:
    """The id of the new row. With `existing` that of the row which has the key already; else Duplicate is raised."""
    row_id = _insert_one(link, tables, mail)
    if row_id is None:
        key = str(mail.dedupe_key)
        found = keys.find(link, tables, key)
        if found is None or not existing:
            raise Duplicate(key, found)
        return found
    _insert_files(link, tables, [(row_id, mail)])
    return row_id


def add_many(link: Link, tables: Tables, mails: Iterable[Mail], *, existing: bool, ids: bool) -> Iterator[list[int]]:
    """For each chunk the ids of its mails, in their order; of new ones only, where `ids` are not asked for."""
    for chunk in _chunks(mails):
        keyed = [mail.dedupe_key is not None for mail in chunk]
        if existing and any(keyed):
            yield _add_known(link, tables, chunk, ids=ids)
        elif ids or any(mail.attachments for mail in chunk):
            yield _add_with_ids(link, tables, chunk)
        else:
            _add_without_ids(link, tables, chunk)
            yield [0] * len(chunk)


def _chunks(mails: Iterable[Mail]) -> Iterator[list[Mail]]:
    chunk: list[Mail] = []
    size = 0
    for mail in mails:
        chunk.append(mail)
        size += len(mail.body_text or "") + len(mail.body_html or "") + sum(len(f.content) for f in mail.attachments)
        if len(chunk) == ROWS or size > BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _add_known(link: Link, tables: Tables, chunk: list[Mail], *, ids: bool) -> list[int]:
    """One by one: what is known already is left out, or named by its id."""
    found: list[int] = []
    for mail in chunk:
        row_id = _insert_one(link, tables, mail)
        if row_id is not None:
            _insert_files(link, tables, [(row_id, mail)])
            found.append(row_id)
        elif ids:
            key = str(mail.dedupe_key)
            known = keys.find(link, tables, key)
            if known is None:
                raise Duplicate(key, None)
            found.append(known)
    return found


def _add_with_ids(link: Link, tables: Tables, chunk: list[Mail]) -> list[int]:
    found: dict[int, int] = {}
    for places, names, rows in _alike(link, chunk):
        room = max(1, _PARAMETERS // len(names))
        for begin in range(0, len(rows), room):
            part = rows[begin : begin + room]
            found |= zip(places[begin : begin + room], _insert_rows(link, tables, names, part), strict=True)
    ids = [found[place] for place in range(len(chunk))]
    _insert_files(link, tables, list(zip(ids, chunk, strict=True)))
    return ids


def _add_without_ids(link: Link, tables: Tables, chunk: list[Mail]) -> None:
    for _, names, rows in _alike(link, chunk):
        if link.copy:
            link.copy(f"COPY {tables.outbox} ({', '.join(names)}) FROM STDIN", rows)
        else:
            link.execute_many(_insert(tables, names), rows)


def _alike(link: Link, chunk: list[Mail]) -> Iterator[tuple[list[int], list[str], list[list[Any]]]]:
    """The rows that may stand in one statement: their places in the chunk, the columns, the values."""
    groups: dict[tuple[bool, ...], tuple[list[int], list[list[Any]]]] = {}
    for place, mail in enumerate(chunk):
        values = _values(link, mail)
        places, rows = groups.setdefault(tuple(values[at] is None for at in _BY_DEFAULT), ([], []))
        places.append(place)
        rows.append(values)
    for places, rows in groups.values():
        used = [at for at, column in enumerate(zip(*rows, strict=True)) if any(value is not None for value in column)]
        yield places, [APPLICATION_COLUMNS[at] for at in used], [[row[at] for at in used] for row in rows]


def _values(link: Link, mail: Mail) -> list[Any]:
    """All columns as the driver takes them."""
    values = mail.values()
    if link.database != "postgresql":
        for at in _TIMES:
            if values[at] is not None:
                values[at] = _moment(link, values[at])
    return values


def _moment(link: Link, moment: datetime) -> Any:
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.strftime(_SQLITE_TIME) if link.database == "sqlite" else utc


def _insert(tables: Tables, names: Sequence[str], rows: int = 1) -> str:
    values = f"({', '.join(['%s'] * len(names))})"
    return f"INSERT INTO {tables.outbox} ({', '.join(names)}) VALUES {', '.join([values] * rows)}"


def _insert_one(link: Link, tables: Tables, mail: Mail) -> int | None:
    """The new row's id; None if its key is taken. The transaction goes on either way."""
    ((_, names, (values,)),) = _alike(link, [mail])
    statement = _insert(tables, names)
    if link.database != "mysql":
        skipping = "" if mail.dedupe_key is None else " ON CONFLICT DO NOTHING"
        found = link.execute(f"{statement}{skipping} RETURNING id", values)
        return int(found[0][0]) if found else None
    try:
        link.execute(statement, values)
    except Exception as error:
        if keys.code_of(error) != keys.TAKEN or mail.dedupe_key is None:
            raise
        return None
    return int(link.execute("SELECT LAST_INSERT_ID()", ())[0][0])


def _insert_rows(link: Link, tables: Tables, names: list[str], rows: list[list[Any]]) -> Iterable[int]:
    """The ids of rows that go in together, in their order."""
    if link.database == "sqlite":  # whose transaction alone writes: the numbers follow each other
        link.execute_many(_insert(tables, names), rows)
        last = int(link.execute("SELECT last_insert_rowid()", ())[0][0])
        return range(last - len(rows) + 1, last + 1)
    statement, values = _insert(tables, names, len(rows)), list(chain.from_iterable(rows))
    if link.database == "postgresql":  # numbered in the order of VALUES
        return sorted(int(found[0]) for found in link.execute(f"{statement} RETURNING id", values))
    link.execute(statement, values)  # the numbers of one statement follow each other: "simple inserts"
    first, step = link.execute("SELECT LAST_INSERT_ID(), @@auto_increment_increment", ())[0]
    return range(int(first), int(first) + len(rows) * int(step), int(step))


def _insert_files(link: Link, tables: Tables, mails: Sequence[tuple[int, Mail]]) -> None:
    rows = [
        (row_id, *(getattr(file, name) for name in FILE_COLUMNS)) for row_id, mail in mails for file in mail.attachments
    ]
    marks = ", ".join(["%s"] * (1 + len(FILE_COLUMNS)))
    if rows:
        names = ", ".join(("outbox_id", *FILE_COLUMNS))
        link.execute_many(f"INSERT INTO {tables.attachment} ({names}) VALUES ({marks})", rows)
