"""The rows: tables, claim, record, recover, enqueue, operate. The only room that imports SQLAlchemy.

`Engine` is re-exported for annotations elsewhere: an outbox, as far as anyone outside this room needs to know.
"""

from sqlalchemy.engine import Engine as Engine
