"""poller: applications INSERT a row into an outbox table, and the mail goes out.

The map of the package is docs/architecture.md. One arrow runs through it, and the layout is the arrow:

    row --compose--> message --courier--> wire --judge--> outcome --next step--> row

What it promises: nothing committed is lost; a 250 is a fact; doubt is small and visible; no send without a claim; one
bad row harms only itself; trouble of the session is never a row's fault; what a DBA sees is true.

From Python, within a transaction of your own:  poller.enqueue(connection, recipients="a@example.com", …)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.outbox.blobs import share as share
    from poller.outbox.enqueue import enqueue as enqueue

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`enqueue` is fetched when it is asked for: the pure rooms do not need SQLAlchemy."""
    if name == "enqueue":
        from poller.outbox.enqueue import enqueue  # noqa: PLC0415 - see above

        return enqueue
    if name == "share":
        from poller.outbox.blobs import share  # noqa: PLC0415 - see above

        return share
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
