"""poller: applications INSERT a row into an outbox table, and the mail goes out.

One arrow runs through the package, and the layout is the arrow:

    row --compose--> message --courier--> wire --judge--> outcome --next step--> row

    outbox/      the rows: tables, claim, record, recover, enqueue; the three dialects side by side
    message/     pure: a row becomes bytes
    smtp/        the wire: a conversation without I/O, and the connection that owns the socket
    facts.py     pure: `dataclass` for what is made anew for each message, and what is none: `Unreadable`
    domains.py   pure: domains as they are compared, whichever way they are written
    visible.py   pure: words from outside as a person may see them
    exchange.py  pure: the facts that pass between us and a relay
    outcome.py   pure: what those facts mean, and who is to blame
    cohort.py    pure: an incident of the relay or of a destination, or a run of bad addresses
    retry.py     pure: what becomes of the row
    rest.py      pure: how long a relay in trouble is left alone
    providers.py pure: which provider takes a domain's mail
    advice/      pure: what a reply asks for beyond its code, with a table of known replies
    throttle/    pure: limits that hold, and how a destination that complains is slowed
    chorus.py    pure: one recipient after another is put off, and nobody knows why
    suspicion.py pure: a session that ended early, by the relay's doing or a destination's
    tally.py     pure: what each destination accepted of late
    hours.py     pure: sending windows and quiet hours
    exchangers.py  whose machines take a domain's mail, from the DNS
    relays.py    the settings of all relays
    pacing.py    pure: what a claim may take, and which rows go when, and by which relay
    manners.py   everybody's limits, heard and obeyed
    forecast/    pure: when the queue will be done, and which settings contradict each other
    prepare.py   pure: a claimed row on its way to the wire
    composing.py rows made into messages, and the next one while the last is being answered
    journal/     what this worker put on the wire and what came back, on local disk
    ahead.py     the next rows, claimed while the last are being sent
    pending.py   rows in hand that were not begun
    ledger.py    outcomes on their way into the database
    lines.py     the relays as this worker knows them
    delivery.py  the arrow itself
    recovery.py  the road back after a crash
    life.py      one life of a worker: its entry, what it left before, its heartbeat
    tick.py      what the delivering thread does
    wiring.py    how the rooms are put together
    service.py   scheduler, signals, shutdown
    lease.py     how long a worker may still act on what it claimed
    machine.py   which machine this is, and which life of its kernel
    state.py     the state directory: who a worker is, and that it is alone
    config.py    one file, read once, every error at once (sources/ finds the lines)
    log.py       what is logged, and a closed list of event names
    cli/         what people type and look at

What it promises: nothing committed is lost; a 250 is a fact; doubt is small and visible; no send without a claim; one
bad row harms only itself; trouble of the session is never a row's fault; what a DBA sees is true.

From Python, within a transaction of your own:  poller.enqueue(connection, recipients="a@example.com", …)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.outbox.enqueue import enqueue as enqueue

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`enqueue` is fetched when it is asked for: the pure rooms do not need SQLAlchemy."""
    if name == "enqueue":
        from poller.outbox.enqueue import enqueue  # noqa: PLC0415 - see above

        return enqueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
