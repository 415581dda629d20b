"""`poller run`: the service."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from poller import log
from poller.cli.listen import taking_mail
from poller.cli.serve import listening
from poller.cli.session import Duration, Misused, configuration, in_words
from poller.outbox.database import DatabaseUnavailable, connect
from poller.outbox.migrate import require_current
from poller.worker.service import Service
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.worker.loop import Mode


@click.command()
@click.option("--once", "mode", flag_value="once", help="End when nothing is due.")
@click.option("--drain", "mode", flag_value="drain", help="End when nothing is due and no retry is waiting.")
@click.option("--for", "limit", type=Duration(), help="With --drain: end after this long at the latest, such as 10m.")
@click.pass_context
@in_words
def run(context: click.Context, mode: Mode | None, limit: float | None) -> None:
    """Poll the outbox and send what is due, until SIGTERM or Ctrl-C.

    --once and --drain exit 0 if nothing ended failed, partial or in doubt and nothing is left, else 1.
    """
    if limit is not None and mode != "drain":
        raise click.UsageError("--for goes with --drain")
    config = configuration(context, to_send=True)
    log.configure(config.log)
    _require_outbox(config)
    composer = composer_of(config)
    if problems := composer.check_settings():
        raise Misused("\n".join(problems))
    for problem in composer.check_templates():  # only the rows that use it fail
        log.get_logger().warning("template.broken", reason=problem)
    try:
        service = Service(config, mode=mode or "forever", limit=limit)
    except OSError as error:
        raise Misused(f"[worker] state_dir {error.filename or config.worker.state_dir}: {error.strerror}") from None
    with _listening(config, service), taking_mail(config):
        finished = service.run()
    if finished.refused:
        raise Misused(finished.refused)
    sys.exit(finished.exit_code if mode or finished.crashed else 0)


@contextlib.contextmanager
def _listening(config: Config, service: Service) -> Iterator[None]:
    """Answer over HTTP meanwhile, if that is wished for. Raises Misused where that can't be."""
    if config.http.listen is None:
        yield
        return
    server = listening(config, service)
    server.start()
    try:
        yield
    finally:
        server.stop()


def _require_outbox(config: Config) -> None:
    """Raise SchemaTrouble before anything is made. A database that is away is waited for: the service looks again."""
    engine = connect(config.database)
    with contextlib.suppress(DatabaseUnavailable):
        require_current(engine)
    engine.dispose()
