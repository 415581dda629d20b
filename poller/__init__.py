"""poller: applications INSERT a row into an outbox table, and the mail goes out.

The map of the package is docs/architecture.md. One arrow runs through it, and the layout is the arrow:

    row --compose--> message --courier--> wire --judge--> outcome --next step--> row

What it promises: nothing committed is lost; a 250 is a fact; doubt is small and visible; no send without a claim; one
bad row harms only itself; trouble of the session is never a row's fault; what a DBA sees is true.

From Python, within a transaction of your own (docs/python.md):

    poller.Outbox().add(connection, poller.Mail(recipients="a@example.com", subject="Hi", body_text="Hello"))

Whose unsubscription a link is: `poller.unsubscribe`; entering it: poller.suppress(connection, address, list_name=…)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.application.mail import Mail as Mail
    from poller.application.mail import State as State
    from poller.application.outbox import Outbox as Outbox
    from poller.application.refusals import Duplicate as Duplicate
    from poller.application.refusals import NotInTransaction as NotInTransaction
    from poller.application.refusals import TooLate as TooLate
    from poller.message.draft import Attachment as Attachment
    from poller.message.draft import Unsendable as Unsendable
    from poller.outbox.blobs import share as share
    from poller.outbox.enqueue import enqueue as enqueue
    from poller.outbox.suppression import suppress as suppress
    from poller.outbox.suppression import unsuppress as unsuppress

__version__ = "0.1.0"

_HOMES = {
    "Outbox": "poller.application.outbox",
    "Mail": "poller.application.mail",
    "Attachment": "poller.message.draft",
    "State": "poller.application.mail",
    "Unsendable": "poller.message.draft",
    "Duplicate": "poller.application.refusals",
    "NotInTransaction": "poller.application.refusals",
    "TooLate": "poller.application.refusals",
    "enqueue": "poller.outbox.enqueue",
    "share": "poller.outbox.blobs",
    "suppress": "poller.outbox.suppression",
    "unsuppress": "poller.outbox.suppression",
}
"""What applications import from here, and where it is. Fetched when asked for: the pure rooms need no SQLAlchemy."""


def __getattr__(name: str) -> object:
    """What `_HOMES` names; looked for once."""
    if home := _HOMES.get(name):
        globals()[name] = getattr(import_module(home), name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
