"""`Outbox`: mail goes in, in the transaction that the caller has open, and goes out once he commits.

    outbox = poller.Outbox()
    with engine.begin() as connection:
        connection.execute(...)                       # the order
        outbox.add(connection, poller.Mail(recipients="anna@example.com", subject="Thank you", body_text="…"))

Rule 1. The first argument is the caller's connection: see `links` for what it may be. A method whose name ends in
        `_async` takes an AsyncConnection or AsyncSession of SQLAlchemy and is awaited; all others are not.
Rule 2. It commits nothing, and it keeps nothing: one `Outbox` serves a whole process, every thread and every task.

Raises Unsendable, Duplicate, TooLate, NotInTransaction, TypeError, and what the caller's driver raises.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from poller.application import insert, keys
from poller.application.links import asynchronous, link
from poller.application.mail import Mail, State
from poller.application.refusals import Duplicate
from poller.frozen import dataclass
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from email.message import Message as Email
    from typing import TypeVar

    from poller.application.keys import Tables
    from poller.application.links import Link

    T = TypeVar("T")

OnDuplicate = Literal["refuse", "existing"]
"""When a dedupe_key is taken: raise Duplicate, or take the existing row for the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outbox:
    """Where mail goes in. `schema`: where the tables are, if not where the connection looks first."""

    schema: str | None = None

    def add(self, connection: Any, mail: Mail | Email, *, on_duplicate: OnDuplicate = "refuse") -> int:
        """Write one mail; its id. With `on_duplicate="existing"` the id of the row that has its key already."""
        way, names = self._at(connection)
        return insert.add(way, names, _mail(mail), existing=on_duplicate == "existing")

    def add_many(self, connection: Any, mails: Iterable[Mail | Email], *, on_duplicate: OnDuplicate = "refuse") -> int:
        """Write as many as there are; how many were new. The iterable is read as it is written, never held whole.

        With `on_duplicate="existing"` those whose key is taken are left out; else the database refuses all.
        """
        way, names = self._at(connection)
        return insert.add_many(way, names, map(_mail, mails), existing=on_duplicate == "existing")

    def add_many_ids(
        self, connection: Any, mails: Iterable[Mail | Email], *, on_duplicate: OnDuplicate = "refuse"
    ) -> list[int]:
        """As `add_many`, and the id of each, in their order; it takes longer."""
        way, names = self._at(connection)
        return insert.add_many_ids(way, names, map(_mail, mails), existing=on_duplicate == "existing")

    def status(self, connection: Any, key: str) -> State | None:
        """What became of the mail with this `dedupe_key`; None if there is none that is ours."""
        way, names = self._at(connection)
        return keys.state(way, names, "dedupe_key", key)

    def status_of(self, connection: Any, row_id: int) -> State | None:
        """What became of the mail with this id; None if there is none that is ours."""
        way, names = self._at(connection)
        return keys.state(way, names, "id", row_id)

    def cancel(self, connection: Any, key: str) -> bool:
        """Cancel what waits under this `dedupe_key`. True: nothing will go out of it. The key stays taken."""
        way, names = self._at(connection)
        return keys.cancel(way, names, key)

    def replace(self, connection: Any, mail: Mail | Email) -> int:
        """Put this mail in the place of what waits under its `dedupe_key`; the id of the new row.

        If nothing is there, it is added. TooLate if what is there went out, or may have, or is in a worker's hands.
        """
        given = _mail(mail)
        if given.dedupe_key is None:
            raise Unsendable("dedupe_key", "there is none; what is to be replaced is found by it")
        way, names = self._at(connection)
        keys.give_way(way, names, given.dedupe_key)
        try:
            return insert.add(way, names, given, existing=False)
        except Duplicate:
            raise keys.too_late(way, names, given.dedupe_key) from None

    async def add_async(self, connection: Any, mail: Mail | Email, *, on_duplicate: OnDuplicate = "refuse") -> int:
        """`add`."""
        return await _awaited(connection, partial(self.add, mail=mail, on_duplicate=on_duplicate))

    async def add_many_async(
        self, connection: Any, mails: Iterable[Mail | Email], *, on_duplicate: OnDuplicate = "refuse"
    ) -> int:
        """`add_many`."""
        return await _awaited(connection, partial(self.add_many, mails=mails, on_duplicate=on_duplicate))

    async def add_many_ids_async(
        self, connection: Any, mails: Iterable[Mail | Email], *, on_duplicate: OnDuplicate = "refuse"
    ) -> list[int]:
        """`add_many_ids`."""
        return await _awaited(connection, partial(self.add_many_ids, mails=mails, on_duplicate=on_duplicate))

    async def status_async(self, connection: Any, key: str) -> State | None:
        """`status`."""
        return await _awaited(connection, partial(self.status, key=key))

    async def status_of_async(self, connection: Any, row_id: int) -> State | None:
        """`status_of`."""
        return await _awaited(connection, partial(self.status_of, row_id=row_id))

    async def cancel_async(self, connection: Any, key: str) -> bool:
        """`cancel`."""
        return await _awaited(connection, partial(self.cancel, key=key))

    async def replace_async(self, connection: Any, mail: Mail | Email) -> int:
        """`replace`."""
        return await _awaited(connection, partial(self.replace, mail=mail))

    def _at(self, connection: Any) -> tuple[Link, Tables]:
        way = link(connection)
        return way, keys.tables(way.database, self.schema)


async def _awaited(connection: Any, call: Callable[[Any], T]) -> T:
    """The call, on the synchronous face of the connection."""
    run_sync = await asynchronous(connection)
    done: T = await run_sync(call)
    return done


def _mail(given: Mail | Email) -> Mail:
    return given if isinstance(given, Mail) else Mail.from_email(given)
