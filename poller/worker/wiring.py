"""The one composition root: how the rooms are put together for one worker. Decides nothing and does nothing."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from poller.delivery.arrow import Bounds, Delivery
from poller.delivery.claim_plan import Pacing
from poller.delivery.claiming import Claiming
from poller.delivery.clock import DatabaseTime
from poller.delivery.compose import Compose
from poller.delivery.files import Files
from poller.delivery.outcomes import Outcomes
from poller.delivery.prefetch import Prefetch
from poller.delivery.recorder import Recorder
from poller.delivery.returns import Returns
from poller.delivery.session import Line
from poller.delivery.throttle import SharedLimits
from poller.delivery.weigh import Weigh
from poller.journal import Journal
from poller.judgement.outcome import Rulebook
from poller.judgement.refusals import Refusals
from poller.judgement.rest import Rest
from poller.machine import boot
from poller.message.composer import Composer
from poller.message.mailing_list import MailingLists
from poller.message.return_path import ReturnPaths
from poller.outbox.blobs import blob_of
from poller.outbox.store import Store
from poller.outbox.throttling import Throttles
from poller.pacing.mx import MailExchangers, resolver_of_this_machine
from poller.smtp.courier import Courier
from poller.smtp.relays import relays_of
from poller.smtp.tokens import Tokens
from poller.worker.lease import Watch, boot_clock
from poller.worker.life import Life
from poller.worker.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from poller.config.load import Config
    from poller.log import Logger, OnChange
    from poller.outbox.database import DatabaseUnavailable, Engine
    from poller.smtp.relays import RelaySettings
    from poller.worker.lease import Lease
    from poller.worker.state import StateDirectory


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Asks:
    """What the parts ask of the loop that holds them."""

    is_same_claim: Callable[[], bool]
    """The lease under which the rows in hand were claimed has not ended meanwhile."""
    may_claim_ahead: Callable[[], bool]
    database_lost: Callable[[DatabaseUnavailable], None]
    progressed: Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What a worker stands on, before it has any part."""

    config: Config
    name: str
    engine: Engine
    state: StateDirectory
    bookkeeper: Executor
    flags: Flags
    lease: Lease
    asks: Asks
    log: Logger
    say: OnChange
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What one worker is made of."""

    store: Store
    exchangers: MailExchangers
    shared_limits: SharedLimits
    journal: Journal
    recorder: Recorder
    claiming: Claiming
    delivery: Delivery
    recovery: Recovery
    life: Life


def parts_of(ground: Ground) -> Parts:
    """Put a worker together: the one place that knows all of its rooms."""
    config, clock, log = ground.config, ground.clock, ground.log
    store, composer = _store_and_composer(config, ground.engine, ground.name)
    exchangers = MailExchangers(resolver_of_this_machine() if config.throttle.look_up_mx else None)
    limits = _shared_limits(config, ground.engine, store, exchangers, clock=clock, log=log)
    journal = _journal(ground.state.path, config)
    recorder = _recorder(ground, store, journal)
    claiming = Claiming(
        store=store,
        shared_limits=limits,
        lines=lines_of(config, limits, clock=clock, log=log),
        batch=config.poll.batch_size,
        clock=clock,
        say=ground.say,
    )
    delivery = _delivery(ground, composer, journal, recorder, claiming)
    recovery = _recovery(ground, journal, delivery)
    return Parts(
        store=store,
        exchangers=exchangers,
        shared_limits=limits,
        journal=journal,
        recorder=recorder,
        claiming=claiming,
        delivery=delivery,
        recovery=recovery,
        life=_life(ground, recovery),
    )


def _recorder(ground: Ground, store: Store, journal: Journal) -> Recorder:
    return Recorder(
        store,
        bookkeeper=ground.bookkeeper,
        clock=ground.clock,
        journal=journal,
        abandon=ground.flags.abandon,
        unsure=ground.flags.unsure,
        progressed=ground.asks.progressed,
        log=ground.log,
    )


def _delivery(ground: Ground, composer: Composer, journal: Journal, recorder: Recorder, claiming: Claiming) -> Delivery:
    config, clock, log, asks, store = ground.config, ground.clock, ground.log, ground.asks, claiming.store
    lines, limits, keep_sent = claiming.lines, claiming.shared_limits, config.message.keep_sent
    rulebook = Rulebook(table=config.throttle.table, provider_of=limits.pacing.provider_of, paced=True)
    return Delivery(
        weigh=Weigh(lines=lines, shared_limits=limits, rulebook=rulebook, refusals=_refusals(config), clock=clock),
        outcomes=Outcomes(recorder=recorder, composer=composer, retry=config.retry, log=log, keep_sent=keep_sent),
        composing=Compose(
            store=store,
            journal=journal,
            composer=composer,
            relays=relays_of(config.smtp, config.relays),
            clock=clock,
            files=files_of(config, ground.engine),
        ),
        ahead=Prefetch(
            bookkeeper=ground.bookkeeper,
            claiming=claiming,
            may_claim=asks.may_claim_ahead,
            unavailable=asks.database_lost,
        ),
        returns=Returns(store=store, journal=journal, bookkeeper=ground.bookkeeper, log=log),
        journal=journal,
        bounds=_bounds(ground),
        log=log,
        time=DatabaseTime(clock),
    )


def _bounds(ground: Ground) -> Bounds:
    flags, lease, asks = ground.flags, ground.lease, ground.asks
    return Bounds(
        stop=flags.stop,
        may_begin=lambda: lease.allows_another and asks.is_same_claim() and not flags.unsure.is_set(),
        may_finish=lambda: not lease.ended and asks.is_same_claim(),
        progressed=asks.progressed,
        called=flags.woken.is_set,
    )


def _recovery(ground: Ground, journal: Journal, delivery: Delivery) -> Recovery:
    takeover = ground.config.worker.takeover
    return Recovery(
        store=delivery.returns.store,
        journal=journal,
        recorder=delivery.outcomes.recorder,
        delivery=delivery,
        watch=Watch(boot_clock, takeover),
        takeover=takeover,
        progressed=ground.asks.progressed,
        log=ground.log,
    )


def _life(ground: Ground, recovery: Recovery) -> Life:
    return Life(
        store=recovery.store,
        state=ground.state,
        journal=recovery.journal,
        lease=ground.lease,
        beat_every=ground.config.worker.heartbeat,
        recovery=recovery,
        delivery=recovery.delivery,
        unsure=ground.flags.unsure,
        log=ground.log,
        say=ground.say,
    )


def composer_of(config: Config, *, host_name: str = "localhost") -> Composer:
    """What makes messages, here and wherever a person is shown one."""
    lists = MailingLists(config.lists, config.unsubscribe)
    paths = ReturnPaths(config.bounces)
    return Composer(
        config.message, config.templates, config.dkim, mailing_lists=lists, return_paths=paths, host_name=host_name
    )


def files_of(config: Config, engine: Engine) -> Files:
    """What gives the files of a row, here and wherever a person is shown one."""
    return Files(fetch=partial(blob_of, engine), settings=config.attachments)


def _store_and_composer(config: Config, engine: Engine, name: str) -> tuple[Store, Composer]:
    """The outbox, and what makes messages of its rows."""
    composer = composer_of(config, host_name=socket.getfqdn())
    store = Store(engine, worker=name, message_id_domain=composer.message_id_domain, patience=config.worker.takeover)
    return store, composer


def _journal(directory: Path, config: Config) -> Journal:
    """The journal of this worker."""
    worker = config.worker
    return Journal(
        directory,
        boot=boot(),
        sync=worker.journal_sync,
        keep=worker.journal_keep,
        keep_size=worker.journal_keep_size,
    )


def _shared_limits(
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


def _refusals(config: Config) -> Refusals[Any]:
    """For the refusals of one relay."""
    return Refusals(limit=config.retry.cohort, patience=config.retry.cohort_patience)


def _couriers(table: str, settings: RelaySettings) -> Callable[[Line], Courier]:
    # Outlive each courier: one that was interrupted is done for, and what the token endpoint said is not.
    tokens = Tokens(settings.oauth2, table=table) if settings.oauth2.is_given else None
    return lambda line: Courier(settings, table=table, session_events=line.session_event, tokens=tokens)


def lines_of(
    config: Config,
    shared_limits: SharedLimits,
    *,
    clock: Callable[[], float],
    log: Logger,
) -> dict[str, Line]:
    """One for each relay."""
    lines: dict[str, Line] = {}
    for name, settings in relays_of(config.smtp, config.relays).items():
        lines[name] = Line(
            name=name,
            courier_of=_couriers("smtp" if settings is config.smtp else f"relays.{name}", settings),
            idle_close=settings.idle_close,
            rest=Rest(first=settings.rest_first, longest=settings.rest_longest),
            retry=replace(config.retry, on_doubt=settings.on_doubt or config.retry.on_doubt),
            most_recipients=settings.max_recipients_per_message,
            refusals=_refusals(config),
            connections=shared_limits,
            max_connections=settings.max_connections,
            clock=clock,
            log=log,
        )
    return lines
