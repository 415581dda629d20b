"""How the rooms are put together for one worker. Decides nothing and does nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING, Any

from poller.delivery.claim_plan import Pacing
from poller.delivery.session import Line
from poller.delivery.throttle import SharedLimits
from poller.journal import Journal
from poller.judgement.refusals import Refusals
from poller.judgement.rest import Rest
from poller.machine import boot
from poller.message.composer import Composer
from poller.outbox.store import Store
from poller.outbox.throttling import Throttles
from poller.pacing.mx import MailExchangers, resolver_of_this_machine
from poller.smtp.courier import Courier
from poller.smtp.dial import place
from poller.smtp.relays import relays_of
from poller.smtp.tokens import Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from poller.config.load import Config
    from poller.exchange import Message, Reply
    from poller.log import Logger
    from poller.outbox.database import Engine
    from poller.smtp.relays import RelaySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """What the threads of one worker tell each other."""

    stop: Event = field(default_factory=Event)
    """Begin nothing more."""
    abandon: Event = field(default_factory=Event)
    """The stop has waited long enough."""
    unsure: Event = field(default_factory=Event)
    """The database was away: it may come back older than it was."""
    woken: Event = field(default_factory=Event)
    """New rows were announced."""
    idle: Event = field(default_factory=Event)
    """Nothing is being delivered."""


Commit = Callable[[str, "Message", "tuple[Reply | None, ...]"], None]
"""To be told that the end of a message is about to leave, and to which relay (`host:port`)."""
Meanwhile = Callable[["Line"], None]
"""To be told that nothing is to be done on this line until the relay answers."""


def store_and_composer(config: Config, engine: Engine, name: str) -> tuple[Store, Composer]:
    """The outbox, and what makes messages of its rows."""
    composer = Composer(config.message, config.templates, host_name=socket.getfqdn())
    store = Store(engine, worker=name, message_id_domain=composer.message_id_domain, patience=config.worker.takeover)
    return store, composer


def journal_in(directory: Path, config: Config) -> Journal:
    """The journal of this worker."""
    worker = config.worker
    return Journal(
        directory,
        boot=boot(),
        sync=worker.journal_sync,
        keep=worker.journal_keep,
        keep_size=worker.journal_keep_size,
    )


def exchangers_of(config: Config) -> MailExchangers:
    """Who takes the mail of a domain, as far as one wants to know."""
    return MailExchangers(resolver_of_this_machine() if config.throttle.look_up_mx else None)


def manners_of(
    config: Config,
    engine: Engine,
    store: Store,
    exchangers: MailExchangers,
    *,
    clock: Callable[[], float],
    log: Logger,
) -> SharedLimits:
    """What is paced."""
    throttle = config.throttle
    return SharedLimits(
        pacing=Pacing(
            settings=throttle,
            relays=relays_of(config.smtp, config.relays),
            sender=config.message.sender or "",
            mail_exchangers=exchangers.of,
        ),
        throttles=Throttles(engine, worker=store.worker),
        store=store,
        hours=throttle.hours,
        hearing=throttle.hearing,
        clock=clock,
        log=log,
    )


def cohort_of(config: Config) -> Refusals[Any]:
    """For the refusals of one relay."""
    return Refusals(limit=config.retry.cohort, patience=config.retry.cohort_patience)


def _couriers(table: str, settings: RelaySettings, commit: Commit, meanwhile: Meanwhile) -> Callable[[Line], Courier]:
    where = place(settings.host, settings.port)
    # Outlives each courier: one that was interrupted is done for, and what the token endpoint said is not.
    tokens = Tokens(settings.oauth2, table=table) if settings.oauth2.is_given else None

    def courier_of(line: Line) -> Courier:
        return Courier(
            settings,
            table=table,
            committing=lambda message, rcpt: commit(where, message, rcpt),
            meanwhile=lambda: meanwhile(line),
            session_events=line.session_event,
            tokens=tokens,
        )

    return courier_of


def lines_of(
    config: Config,
    shared_limits: SharedLimits,
    commit: Commit,
    meanwhile: Meanwhile,
    *,
    clock: Callable[[], float],
    log: Logger,
) -> dict[str, Line]:
    """One for each relay."""
    lines: dict[str, Line] = {}
    for name, settings in relays_of(config.smtp, config.relays).items():
        lines[name] = Line(
            name=name,
            courier_of=_couriers("smtp" if settings is config.smtp else f"relays.{name}", settings, commit, meanwhile),
            idle_close=settings.idle_close,
            rest=Rest(first=settings.rest_first, longest=settings.rest_longest),
            retry=replace(config.retry, on_doubt=settings.on_doubt or config.retry.on_doubt),
            most_recipients=settings.max_recipients_per_message,
            refusals=cohort_of(config),
            connections=shared_limits,
            max_connections=settings.max_connections,
            clock=clock,
            log=log,
        )
    return lines
