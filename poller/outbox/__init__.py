"""The rows: tables, claim, record, recover, enqueue, operate. The only room that imports SQLAlchemy.

`Engine` is re-exported for annotations elsewhere: an outbox, as far as anyone outside this room needs to know. At run
time it is not here: the configuration reads this room's settings, and who only reads it needs no SQLAlchemy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine as Engine
