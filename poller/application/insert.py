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
from poller.application.mail import values_of
from poller.application.refusals import Duplicate
from poller.columns import FILE_COLUMNS, MAIL_COLUMNS, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from poller.application.keys import Tables
    from poller.application.links import Link
    from poller.application.mail import Mail

ROWS = 1000  # to a chunk; more of them save nothing
BYTES = 2_000_000  # characters, about: MariaDB takes 16 MB at once, MySQL's oldest default is 4
_PARAMETERS = {"postgresql": 65_535, "mysql": 1_000_000, "sqlite": 32_766}
"""To a statement. MySQL's drivers write them into it."""
_BY_DEFAULT = tuple(map(MAIL_COLUMNS.index, ("priority", "due_at", "created_at")))
"""The table fills them in, and NULL is refused."""
_TIMES = tuple(map(MAIL_COLUMNS.index, ("due_at", "expires_at", "created_at")))
_SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"


def add(link: Link, tables: Tables, mail: Mail, *, existing: bool) -> int:
    """The id of the new row. With `existing` that of the row which has the key already; else Duplicate is raised."""
    ((_, names, row),) = _alike(link, [mail])
    new = _insert_new(link, tables, names, row)
    if new:
        _insert_files(link, tables, [(new[0], mail)])
        return new[0]
    key = str(mail.dedupe_key)
    found = keys.find(link, tables, key)
    if found is None or not existing:
        raise Duplicate(key, found)
    return found


def add_many(link: Link, tables: Tables, mails: Iterable[Mail], *, existing: bool) -> int:
    """How many were new. With `existing` those whose key is taken are left out; else the database refuses them."""
    return sum(_add_chunk(link, tables, chunk, existing=existing) for chunk in _chunks(mails))


def add_many_ids(link: Link, tables: Tables, mails: Iterable[Mail], *, existing: bool) -> list[int]:
    """The ids, in the order of the mails. With `existing` that of the row which has the key already."""
    found: list[int] = []
    for chunk in _chunks(mails):
        if existing and _has_keys(chunk):
            found.extend(add(link, tables, mail, existing=True) for mail in chunk)
        else:
            found.extend(_add_with_ids(link, tables, chunk))
    return found


def _add_chunk(link: Link, tables: Tables, chunk: list[Mail], *, existing: bool) -> int:
    has_files = any(mail.attachments for mail in chunk)
    if existing and _has_keys(chunk):
        return sum(_add_new(link, tables, [mail]) for mail in chunk) if has_files else _add_new(link, tables, chunk)
    (_add_with_ids if has_files else _add_without_ids)(link, tables, chunk)
    return len(chunk)


def _has_keys(chunk: list[Mail]) -> bool:
    return any(mail.dedupe_key is not None for mail in chunk)


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


def _add_new(link: Link, tables: Tables, chunk: list[Mail]) -> int:
    """How many were new; the others are left out."""
    count = 0
    for places, names, rows in _alike(link, chunk):
        for begin, end in _rooms(link, len(rows), len(names)):
            ids = _insert_new(link, tables, names, rows[begin:end])
            if ids is None:  # MariaDB and MySQL refuse all of them for the sake of one
                singly = [_insert_new(link, tables, names, [row]) for row in rows[begin:end]]
                ids = [row_id for found in singly for row_id in found or ()]
            count += len(ids)
            if len(chunk) == 1:
                _insert_files(link, tables, [(row_id, chunk[places[0]]) for row_id in ids])
    return count


def _rooms(link: Link, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Where to cut, so that no statement has more parameters than the database takes."""
    room = max(1, _PARAMETERS[link.database] // columns)
    return ((begin, begin + room) for begin in range(0, rows, room))


def _add_with_ids(link: Link, tables: Tables, chunk: list[Mail]) -> list[int]:
    found: dict[int, int] = {}
    for places, names, rows in _alike(link, chunk):
        for begin, end in _rooms(link, len(rows), len(names)):
            found |= zip(places[begin:end], _insert_rows(link, tables, names, rows[begin:end]), strict=True)
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
        yield places, [MAIL_COLUMNS[at] for at in used], [[row[at] for at in used] for row in rows]


def _values(link: Link, mail: Mail) -> list[Any]:
    """All columns as the driver takes them."""
    values = values_of(mail)
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


def _insert_new(link: Link, tables: Tables, names: list[str], rows: list[list[Any]]) -> Sequence[int] | None:
    """The ids of the new rows. MariaDB and MySQL: None if a key is taken. The transaction goes on either way."""
    statement, values = _insert(tables, names, len(rows)), list(chain.from_iterable(rows))
    if link.database != "mysql":
        found = link.execute(f"{statement} ON CONFLICT DO NOTHING RETURNING id", values)
        return [int(row[0]) for row in found]
    try:
        return _numbered(link, statement, values, len(rows))
    except Exception as error:
        if keys.code_of(error) != keys.TAKEN or "dedupe_key" not in names:
            raise
        return None


def _numbered(link: Link, statement: str, values: list[Any], rows: int) -> range:
    """MariaDB and MySQL: the numbers of one statement follow each other, where it says how many there are."""
    link.execute(statement, values)
    first, step = link.execute("SELECT LAST_INSERT_ID(), @@auto_increment_increment", ())[0]
    return range(int(first), int(first) + rows * int(step), int(step))


def _insert_rows(link: Link, tables: Tables, names: list[str], rows: list[list[Any]]) -> Iterable[int]:
    """The ids of rows that go in together, in their order."""
    if link.database == "sqlite":  # whose transaction alone writes: the numbers follow each other
        link.execute_many(_insert(tables, names), rows)
        last = int(link.execute("SELECT last_insert_rowid()", ())[0][0])
        return range(last - len(rows) + 1, last + 1)
    statement, values = _insert(tables, names, len(rows)), list(chain.from_iterable(rows))
    if link.database == "postgresql":  # numbered in the order of VALUES
        return sorted(int(found[0]) for found in link.execute(f"{statement} RETURNING id", values))
    return _numbered(link, statement, values, len(rows))


def _insert_files(link: Link, tables: Tables, mails: Sequence[tuple[int, Mail]]) -> None:
    rows = [
        (row_id, file.name, file.content, file.content_type, file.content_id, PARTS[file.is_alternative])
        for row_id, mail in mails
        for file in mail.attachments
    ]
    marks = ", ".join(["%s"] * (1 + len(FILE_COLUMNS)))
    if rows:
        names = ", ".join(("outbox_id", *FILE_COLUMNS))
        link.execute_many(f"INSERT INTO {tables.attachment} ({names}) VALUES ({marks})", rows)
