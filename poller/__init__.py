"""poller: applications INSERT a row into an outbox table, and the mail goes out.

The map of the package is docs/architecture.md. One arrow runs through it, and the layout is the arrow:

    row --compose--> message --courier--> wire --judge--> outcome --next step--> row

What it promises: nothing committed is lost; a 250 is a fact; doubt is small and visible; no send without a claim; one
bad row harms only itself; trouble of the session is never a row's fault; what a DBA sees is true.

From Python, within a transaction of your own:  poller.enqueue(connection, recipients="a@example.com", …)
Whose unsubscription a link is: `poller.unsubscribe`; entering it: poller.suppress(connection, address, list_name=…)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.outbox.blobs import share as share
    from poller.outbox.enqueue import enqueue as enqueue
    from poller.outbox.suppression import suppress as suppress
    from poller.outbox.suppression import unsuppress as unsuppress

__version__ = "0.1.0"

_FETCHED = {
    "enqueue": "poller.outbox.enqueue",
    "share": "poller.outbox.blobs",
    "suppress": "poller.outbox.suppression",
    "unsuppress": "poller.outbox.suppression",
}


def __getattr__(name: str) -> object:
    """What needs SQLAlchemy is fetched when it is asked for: the pure rooms do not need it."""
    if name in _FETCHED:
        return getattr(import_module(_FETCHED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
