"""`poller check`: everything that must be right before the service can work, each with a verdict and a remedy.

Nothing is sent, and nothing is written: what a worker does is rehearsed in a transaction that is rolled back. All
checks are made, also when an early one fails; each relay is asked.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from poller.cli.batch_check import check_batch
from poller.cli.dkim import check_published
from poller.cli.screen import say
from poller.cli.session import FAILED, MISUSED, configuration, database
from poller.cli.session import in_words as told_in_words
from poller.cli.token import WITHOUT_LOGIN, check_token
from poller.cli.trial import MESSAGES, in_words, trials
from poller.config.load import Config, ConfigError
from poller.config.sources import dotted
from poller.exchange import RelayTrouble
from poller.message.draft import Unsendable
from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect, is_pooled
from poller.outbox.facts import about
from poller.outbox.listen import is_installed
from poller.outbox.migrate import SchemaTrouble, missing_file
from poller.outbox.rehearsal import rehearse
from poller.outbox.report import glance, silent
from poller.pacing.hours import closes_at, is_open, opens_at
from poller.smtp.courier import Courier
from poller.smtp.tokens import Tokens
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poller.outbox import Engine
    from poller.pacing.settings import ThrottleSettings
    from poller.smtp.relays import RelaySettings
from poller.units import format_duration

PATIENCE_S = 20.0
"""For each reply of a relay; a worker waits minutes, as RFC 5321 section 4.5.3.2 has it."""
CLOCK_DRIFT_S = 5.0
"""Between this machine and the database; times in rows are the database's, so more only confuses people."""
SAFE_SQLITE = (3, 51, 3)  # the first release without the WAL-reset bug that can corrupt a database


class Verdicts:
    """Prints one line for each check and remembers whether all were good."""

    def __init__(self) -> None:
        self.failed = 0

    def good(self, what: str, detail: str = "") -> None:
        """It is as it should be."""
        say(("ok  ", "green"), f" {what:<10} {detail}")

    def warn(self, what: str, detail: str) -> None:
        """It works, but."""
        say(("warn", "yellow"), f" {what:<10} {detail}")

    def bad(self, what: str, detail: str) -> None:
        """It does not; `detail` has the remedy."""
        self.failed += 1
        say(("FAIL", "red"), f" {what:<10} {detail}")

    @contextmanager
    def trying(self, what: str, whose: str = "") -> Iterator[None]:
        """Turn the errors that a person can mend into a verdict, which begins with `whose` it is."""
        try:
            yield
        except (DatabaseRefused, SchemaTrouble) as error:
            self.bad(what, str(error))
        except DatabaseUnavailable as error:
            self.bad(what, f"{error}; {error.remedy}")
        except Unsendable as error:
            self.bad(what, f"{whose}{error.reason}")
        except RelayTrouble as error:
            self.bad(what, f"{whose}at {error.phase.value}: {error.reason}")


@click.command()
@click.option("--deliver-to", metavar="ADDRESS", help="Send each relay a few messages to this address: what it bears.")
@click.option("--batch", help="Only this: make a message of each row of the batch, and say what is wrong with it.")
@click.pass_context
def check(context: click.Context, deliver_to: str | None, batch: str | None) -> None:
    """Check configuration, database, schema, clock, relay, TLS and login; or the rows of a batch.

    Nothing is sent, but with --deliver-to.
    """
    if batch is not None:
        _batch(context, batch)
    verdicts = Verdicts()
    try:
        config = configuration(context, to_send=True)
    except ConfigError as error:
        _check_what_is_readable(verdicts, error)
        sys.exit(MISUSED)
    verdicts.good("config", str(config.source or "defaults: no configuration file was found"))
    _check_message(verdicts, config)
    _check_database(verdicts, config)
    _check_relays(verdicts, config)
    if deliver_to:
        _try_gears(verdicts, config, deliver_to)
    _check_pacing(verdicts, config)
    sys.exit(FAILED if verdicts.failed else 0)


@told_in_words
def _batch(context: click.Context, batch: str) -> NoReturn:
    config = configuration(context)
    sys.exit(FAILED if check_batch(config, database(config), batch) else 0)


def _check_what_is_readable(verdicts: Verdicts, error: ConfigError) -> None:
    """Every problem at once, and behind them what the sections without one lead to."""
    for problem in error.problems:
        verdicts.bad("config", str(problem))
    if error.readable is None:
        return
    if not any(map(error.concerns, ("message", "lists", "unsubscribe"))):
        _check_message(verdicts, error.readable)
    if not error.concerns("database"):
        _check_database(verdicts, error.readable)
    _check_relays(verdicts, error.readable, [table for table in _relays(error.readable) if error.concerns(table)])
    if not any(map(error.concerns, ("throttle", "relays", "smtp"))):
        _check_pacing(verdicts, error.readable)


def _check_message(verdicts: Verdicts, config: Config) -> None:
    composer = composer_of(config)
    problems = composer.check()
    for problem in problems:
        verdicts.bad("message", problem)
    if not problems:
        verdicts.good(
            "message", f"sender {config.message.sender}" if config.message.sender else "each row names its sender"
        )
    if config.message.redirect_to:
        verdicts.warn("message", f"every message goes to {config.message.redirect_to} ([message] redirect_to)")
    if config.message.only_to:
        verdicts.warn("message", "only some recipients get mail ([message] only_to)")
    check_published(verdicts, composer)


def _check_database(verdicts: Verdicts, config: Config) -> None:
    with verdicts.trying("database"):
        engine = connect(config.database)
        if file := missing_file(engine):  # connecting would make it
            verdicts.bad("database", f"{file} does not exist yet; run: poller migrate")
            return
        facts = about(engine)
        verdicts.good("database", f"{facts.server} at {engine.url.render_as_string(hide_password=True)}")
        if facts.dialect == "sqlite" and facts.version < SAFE_SQLITE:
            verdicts.warn(
                "database", "SQLite before 3.51.3 can corrupt a database when two connections reset the WAL at once"
            )
        drift = abs((datetime.now(UTC) - facts.now).total_seconds())
        if drift > CLOCK_DRIFT_S:
            verdicts.warn("clock", f"this machine and the database differ by {drift:.0f} s; set one of them right")
        else:
            verdicts.good("clock", f"within {CLOCK_DRIFT_S:.0f} s of the database's")
        if is_pooled(engine):
            verdicts.good("pooler", "one is in front ([database] pooled); nothing is kept in a session")
        _check_schema(verdicts, facts)
        if not facts.pending and not facts.trouble:
            _rehearse(verdicts, engine)
            _check_workers(verdicts, engine)
        if config.poll.listen and not facts.pending and not facts.trouble and not is_installed(engine):
            verdicts.bad("listen", "new rows notify nobody ([poll] listen); run: poller migrate")
        engine.dispose()


def _rehearse(verdicts: Verdicts, engine: Engine) -> None:
    with verdicts.trying("work"):
        why = rehearse(engine)
        if why:
            verdicts.bad("work", why)
        else:
            verdicts.good("work", "a row could be enqueued, claimed and recorded (and was not)")


def _check_workers(verdicts: Verdicts, engine: Engine) -> None:
    with verdicts.trying("workers"):
        everybody = glance(engine).workers
        alive = [worker["name"] for worker in everybody if worker["state"] == "alive"]
        gone = silent(everybody)
        remedy = "start it again, or if it is gone for good: DELETE FROM outbox_worker WHERE name = …"
        if gone and not alive:
            verdicts.bad("workers", f"{gone}, and no other is alive; {remedy}")
        elif gone:
            verdicts.warn("workers", f"{gone}; {remedy}")
        elif everybody:
            verdicts.good("workers", f"{', '.join(alive)} alive" if alive else "all stopped in order")


def _check_schema(verdicts: Verdicts, facts: Any) -> None:
    if facts.trouble:
        verdicts.bad("schema", facts.trouble)
    elif facts.pending:
        verdicts.bad("schema", f"lacks {', '.join(facts.pending)}; run: poller migrate")
    else:
        verdicts.good("schema", "up to date")
        if facts.open_schema:
            where = facts.open_schema
            verdicts.warn(
                "schema",
                f"everybody may create in {where}; REVOKE CREATE ON SCHEMA {where} FROM PUBLIC, as roles.sql does",
            )
        if facts.paused:
            verdicts.warn("outbox", f"switched off: {facts.paused}; poller resume --all")


def _relays(config: Config) -> dict[str, tuple[str, RelaySettings]]:
    """By table: the relay's name, and its settings."""
    others = {dotted(("relays", name)): (name, relay) for name, relay in config.relays.items()}
    return {"smtp": (config.smtp.name, config.smtp), **others}


def _check_relays(verdicts: Verdicts, config: Config, wrong: Sequence[str] = ()) -> None:
    """Each, but for the tables that are `wrong`; with its name, if there are several."""
    relays = _relays(config)
    for table, (name, relay) in relays.items():
        if table not in wrong:
            _check_relay(verdicts, relay, table, f"{name}: " if config.relays else "")
    if not wrong and all(relay.senders or relay.domains for _, relay in relays.values()):
        verdicts.warn("relay", "none takes all mail: each is for some senders or domains only (senders, domains)")


def _check_relay(verdicts: Verdicts, relay: RelaySettings, table: str, whose: str) -> None:
    """A person waits: not as long for a reply as a worker does, and not without a word."""
    patience = {name: min(getattr(relay, name), PATIENCE_S) for name in ("connect_timeout", "reply_timeout")}
    tokens = Tokens(relay.oauth2, table=table) if relay.oauth2.is_given else None
    has_token = tokens is None or check_token(verdicts, relay.oauth2, tokens, whose)
    asked = replace(relay, **patience) if has_token else replace(relay, **patience, **WITHOUT_LOGIN)
    courier = Courier(asked, table=table, tokens=tokens if has_token else None)
    with verdicts.trying("relay", whose):
        waits = format_duration(patience["reply_timeout"])
        say(f"asking the relay {courier.relay}; it has {waits} for each reply", err=True)
        courier.open()
        handshake = courier.handshake
        assert handshake is not None  # noqa: S101 - `open` raised otherwise
        verdicts.good("relay", f"{whose}{courier.relay}: {handshake.banner}")
        if handshake.tls:
            verdicts.good("tls", f"{whose}{handshake.tls}, certificate verified")
        else:
            verdicts.warn("tls", f'{whose}none: fine on this machine only ([{table}] security = "starttls")')
        if has_token:
            verdicts.good("login", whose + (f"as {relay.username}" if handshake.authenticated else "none asked for"))
        courier.close()


def _try_gears(verdicts: Verdicts, config: Config, address: str) -> None:
    """What each relay bears of `[smtp] pipelining`."""
    for table, (name, relay) in _relays(config).items():
        whose = f"{name}: " if config.relays else ""
        with verdicts.trying("pipelining", whose):
            borne = None
            for trial in trials(config, relay, table, address):
                done = f"{whose}{trial.gear.word}: {trial.accepted} of {MESSAGES} accepted"
                if not trial.trouble:
                    borne = trial
                    verdicts.good("pipelining", done)
                elif borne is None:
                    verdicts.bad("pipelining", f"{done}; not even one command at a time: {trial.trouble}")
                else:
                    verdicts.warn("pipelining", f"{done}; not borne: {trial.trouble}")
            if borne is not None:
                verdicts.good("pipelining", whose + in_words(relay, borne, table))


def _check_pacing(verdicts: Verdicts, config: Config) -> None:
    now = datetime.now(UTC)
    say = verdicts.good if is_open(config.throttle.hours, now) else verdicts.warn
    say("pacing", f"{limits_in_words(config)}; {hours_in_words(config.throttle, now)}")


def limits_in_words(config: Config) -> str:
    """How many limits there are, and of what: "3 limits (outbox 1, relay 2)"."""
    throttle = config.throttle
    limits = [("outbox", throttle), *(("relay", relay) for _, relay in _relays(config).values())]
    limits += [("sender", limit) for limit in throttle.senders.values()]
    limits += [("provider", limit) for limit in throttle.providers.values()]
    limits += [("domain", limit) for limit in throttle.domains.values()]
    kinds = Counter(kind for kind, limit in limits if limit.rates or limit.gap)
    if not kinds:
        return "no limits"
    parts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    return f"{kinds.total()} limit{'' if kinds.total() == 1 else 's'} ({parts})"


def hours_in_words(throttle: ThrottleSettings, now: datetime) -> str:
    """Whether mail may go now, and when that changes."""
    hours = throttle.hours
    opens, closes = opens_at(hours, now), closes_at(hours, now)
    if closes is None:
        return "always open"
    change = (closes if opens == now else opens).astimezone(hours.zone)
    return f"{'open' if opens == now else 'closed'} until {change:%Y-%m-%d %H:%M} {throttle.time_zone}"
