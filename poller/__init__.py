"""poller: applications INSERT a row into an outbox table, and the mail goes out.

One arrow runs through the package, and the layout is the arrow:

    row --compose--> message --courier--> wire --judge--> outcome --next step--> row

    outbox/      the rows: tables, claim, record, recover, enqueue; the three dialects side by side
    message/     pure: a row becomes bytes
    smtp/        the wire: a conversation without I/O, and the connection that owns the socket
    exchange.py  pure: the facts that pass between us and a relay
    outcome.py   pure: what those facts mean, and who is to blame
    retry.py     pure: what becomes of the row
    delivery.py  the arrow itself
    service.py   ticks, leases, signals, shutdown
    config.py    one file, read once, every error at once
    cli/         what people type; status/ what they look at
"""

__version__ = "0.1.0"
