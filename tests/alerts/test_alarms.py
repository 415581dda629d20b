"""Alarms: what is wrong, told once by one of many, reminded of, and called off. Real databases and listeners."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from servers.fault import Faults, FaultServer

from poller.alerts.alarms import SETTLED_S, TELLING_S, Alarm, alarm_of, seen_again, seen_no_more, taken, told, wants
from poller.alerts.conditions import Finding, Seen, findings
from poller.alerts.settings import AlertSettings
from poller.alerts.tell import News, NotToldError, Teller, by_command, by_webhook, ways
from poller.alerts.watch import Watch
from poller.cli import main
from poller.config.load import Config
from poller.log import get_logger
from poller.message.settings import MessageSettings
from poller.outbox.alarms import PREFIX
from poller.outbox.database import connect
from poller.outbox.report import Pulse
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, outbox
from poller.smtp.relays import FirstRelaySettings
from poller.units import Misfit
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

NEWS = News(
    alarm="in doubt", kind="raised", words="2 are in doubt", since=0.0, at=60.0, outbox="sqlite:///x", worker="w1"
)
SECRET = "a secret that both know"


# ---- an alarm's life


def test_an_alarm_is_told_once_it_has_lasted_and_again_when_it_is_time_to_remind() -> None:
    alarm = seen_again(None, "bad", 100.0)
    assert wants(alarm, 109.0, after=10.0, remind=60.0) is None
    assert wants(alarm, 110.0, after=10.0, remind=60.0) == "raised"
    alarm = told(taken(alarm, 110.0), 110.0)
    assert wants(alarm, 169.0, after=10.0, remind=60.0) is None
    assert wants(alarm, 170.0, after=10.0, remind=60.0) == "still"


def test_while_somebody_tells_nobody_else_does_and_who_died_meanwhile_is_replaced() -> None:
    alarm = taken(seen_again(None, "bad", 100.0), 100.0)
    assert wants(alarm, 100.0 + TELLING_S - 1, after=0.0, remind=60.0) is None
    assert wants(alarm, 100.0 + TELLING_S, after=0.0, remind=60.0) == "raised"


def test_what_is_gone_must_stay_gone_before_it_is_called_off() -> None:
    alarm = told(taken(seen_again(None, "bad", 100.0), 100.0), 100.0)
    gone = seen_no_more(alarm, 200.0)
    assert gone is not None
    assert wants(gone, 200.0 + SETTLED_S - 1, after=0.0, remind=60.0) is None
    assert wants(gone, 200.0 + SETTLED_S, after=0.0, remind=60.0) == "over"
    assert seen_again(gone, "bad", 230.0).gone is None


def test_what_was_never_told_goes_without_a_word() -> None:
    assert seen_no_more(seen_again(None, "bad", 100.0), 101.0) is None


def test_a_state_that_somebody_has_changed_by_hand_is_begun_anew() -> None:
    assert alarm_of("nonsense") is None
    assert alarm_of('{"since": 1}') is None
    assert alarm_of(Alarm(since=1.0, words="ä").text()) == Alarm(since=1.0, words="ä")


# ---- what is wrong

FINE = Pulse(due=3, oldest_due_seconds=5.0, last_sent_seconds=1.0, in_doubt=0)
STUCK = Pulse(due=3, oldest_due_seconds=900.0, last_sent_seconds=700.0, in_doubt=2)
EVERYTHING = AlertSettings(
    oldest_due=600.0,
    nothing_sent=600.0,
    silent_worker=True,
    trouble=300.0,
    in_doubt=1,
    failures=0.2,
    command=("true",),
)


def seen(pulse: Pulse, **more: Any) -> Seen:
    facts = {"is_off": False, "ended": 0, "failed": 0, "workers": {"w1": "alive"}, "trouble": {}}
    return Seen(pulse=pulse, **facts | more)


def test_an_outbox_that_is_well_raises_nothing() -> None:
    assert list(findings(EVERYTHING, seen(FINE, ended=100, failed=19))) == []


def test_each_thing_that_is_wrong_has_its_name() -> None:
    wrong = seen(
        STUCK, ended=100, failed=20, workers={"w1": "alive", "w2": "silent"}, trouble={"w1": "the relay is away"}
    )
    assert [finding.name for finding in findings(EVERYTHING, wrong)] == [
        "oldest due",
        "nothing sent",
        "silent w2",
        "trouble of w1",
        "in doubt",
        "failures",
    ]
    assert Finding(name="trouble of w1", words="w1: the relay is away", after=300.0) in findings(EVERYTHING, wrong)


def test_while_the_outbox_is_off_nobody_is_told_that_mail_waits() -> None:
    assert [finding.name for finding in findings(EVERYTHING, seen(STUCK, is_off=True))] == ["in doubt"]


def test_without_any_worker_that_is_the_alarm() -> None:
    (finding,) = findings(EVERYTHING, seen(FINE, workers={"w1": "stopped", "w2": "silent"}))
    assert (finding.name, finding.words) == ("no worker", "no worker is alive; start one with: poller run")


# ---- settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"in_doubt": 1}, "there are alarms and nobody to tell"),
        ({"webhook": "http://hooks.example.com/"}, "begins with https://"),
        ({"webhook": "https://hooks.example.com/", "webhook_secret": "short"}, "at least 16 characters"),
    ],
)
def test_settings_that_can_not_work_are_refused_in_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(Misfit, match=words):
        AlertSettings(**values)


# ---- telling


def test_a_command_reads_the_alarm_as_json(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    code = f"import sys; open({str(heard)!r}, 'w').write(sys.stdin.read())"
    by_command(NEWS, (sys.executable, "-c", code))
    told_it = json.loads(heard.read_text())
    assert (told_it["alarm"], told_it["kind"], told_it["words"]) == ("in doubt", "raised", "2 are in doubt")
    assert (told_it["since"], told_it["id"]) == ("1970-01-01 00:00:00 UTC", NEWS.id)


@pytest.mark.parametrize(
    ("command", "words"),
    [(("/nowhere/at/all",), "No such file or directory"), ((sys.executable, "-c", "exit(3)"), "ended with status 3")],
)
def test_a_command_that_fails_says_why(command: tuple[str, ...], words: str) -> None:
    with pytest.raises(NotToldError, match=words):
        by_command(NEWS, command)


@contextmanager
def hook(answer: int = 204) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Somebody who takes webhooks; gives its address and what came."""
    came: list[tuple[dict[str, str], bytes]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answer)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_is_signed_over_id_time_and_body() -> None:
    with hook() as (url, came):
        by_webhook(NEWS, url, SECRET)
    ((fields, body),) = came
    what = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), what, hashlib.sha256).digest()).decode()
    assert (fields["webhook-signature"], fields["webhook-id"]) == (f"v1,{expected}", NEWS.id)
    assert json.loads(body)["alarm"] == "in doubt"


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_anything_but_an_acceptance_of_the_webhook_is_a_refusal(answer: int) -> None:
    with hook(answer) as (url, came), pytest.raises(NotToldError, match=f"it answered {answer}"):
        by_webhook(NEWS, url, SECRET)
    assert len(came) == 1


def test_a_webhook_that_nobody_takes_says_so() -> None:
    with pytest.raises(NotToldError, match=r"webhook: .*refused"):
        by_webhook(NEWS, "http://127.0.0.1:9/", SECRET)


@pytest.mark.parametrize("answer", [b"no HTTP at all\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200], ids=repr)
def test_an_answer_that_is_no_http_is_a_refusal(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answering() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(4096)
                line.sendall(answer)

        thread = threading.Thread(target=answering)
        thread.start()
        with pytest.raises(NotToldError, match="webhook: "):
            by_webhook(NEWS, f"http://127.0.0.1:{listening.getsockname()[1]}/", SECRET)
        thread.join()


@pytest.mark.parametrize("url", ["https://[", "https://a b/", "https://:x/"])
def test_an_address_that_is_none_is_a_refusal(url: str) -> None:
    with pytest.raises(NotToldError, match="webhook: "):
        by_webhook(NEWS, url, SECRET)


def test_news_that_could_not_be_told_keep_their_id_and_a_reminder_has_one_of_its_own() -> None:
    still = replace(NEWS, kind="still", before=100.0)
    assert replace(NEWS, at=900.0).id == NEWS.id
    assert replace(still, at=900.0).id == still.id
    assert len({NEWS.id, still.id, replace(still, before=200.0).id}) == 3


def test_who_is_to_stop_begins_no_further_way() -> None:
    told_by: list[str] = []
    stopping = [False]

    def first(_: object) -> None:
        told_by.append("first")
        stopping[0] = True

    ways_of = (first, lambda _: told_by.append("second"))
    teller = Teller(ways=ways_of, log=get_logger(), failed="alert.failed", is_stopping=lambda: stopping[0])
    assert (teller.tell(NEWS, alarm="in doubt"), told_by) == (True, ["first"])


# ---- one round, on a real outbox


class Watched:
    """Watches of one outbox whose telling is a webhook that takes it, or a relay."""

    def __init__(self, engine: Engine, settings: AlertSettings, relay: FirstRelaySettings | None = None) -> None:
        self.engine = engine
        config = Config(message=MessageSettings(sender="Poller <poller@example.com>"))
        self.watches = [
            Watch(
                settings=settings,
                engine=engine,
                teller=Teller(ways=ways(settings, composer_of(config), relay), log=get_logger(), failed="alert.failed"),
                worker=name,
                outbox="here",
                clock=lambda: datetime.now(UTC).timestamp(),
                log=get_logger(),
            )
            for name in ("w1", "w2")
        ]

    def rounds(self) -> None:
        for watch in self.watches:
            watch.round()

    def later(self, seconds: float) -> None:
        """As if everything that is kept had happened so much earlier."""
        with self.engine.begin() as connection:
            for name, text in connection.execute(sa.select(meta.c.name, meta.c.value)).all():
                if name.startswith(PREFIX):
                    facts = json.loads(text)
                    moved = {k: v - seconds if isinstance(v, float) else v for k, v in facts.items()}
                    value = json.dumps(moved, separators=(",", ":"))
                    connection.execute(sa.update(meta).where(meta.c.name == name).values(value=value))

    def kept(self) -> list[str]:
        with self.engine.connect() as connection:
            names = connection.execute(sa.select(meta.c.name).where(meta.c.name.startswith(PREFIX))).scalars()
            return [name.removeprefix(PREFIX) for name in names]


def doubtful(engine: Engine) -> None:
    now = datetime.now(UTC) - timedelta(minutes=1)
    values = {"recipients": "a@b.c", "body_text": "x", "status": "in_doubt", "error": "lost", "message_id": "<1@b.c>"}
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox).values(**values, claim_seq=1, first_attempt_at=now, doubts=1))


def settled(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.delete(outbox))


def kinds(came: list[tuple[dict[str, str], bytes]]) -> list[str]:
    return [json.loads(body)["kind"] for _, body in came]


def test_an_alarm_is_raised_once_reminded_of_and_called_off_once_by_two_workers(engine: Engine) -> None:
    with hook() as (url, came):
        watched = Watched(engine, AlertSettings(in_doubt=1, webhook=url, webhook_secret=SECRET, remind=3600.0))
        watched.rounds()
        assert (kinds(came), watched.kept()) == ([], [])
        doubtful(engine)
        watched.rounds()
        watched.rounds()
        assert kinds(came) == ["raised"]
        watched.later(3601.0)
        watched.rounds()
        assert kinds(came) == ["raised", "still"]
        settled(engine)
        watched.rounds()
        watched.later(SETTLED_S + 1)
        watched.rounds()
        watched.rounds()
    assert (kinds(came), watched.kept()) == (["raised", "still", "over"], [])


def test_who_dies_while_it_tells_is_replaced_after_a_while(engine: Engine) -> None:
    with hook() as (url, came):
        settings = AlertSettings(in_doubt=1, webhook=url, webhook_secret=SECRET)
        doubtful(engine)
        dying = Watched(engine, AlertSettings(in_doubt=1, command=(sys.executable, "-c", "exit(1)")))
        dying.watches[0].round()  # it has taken the alarm, and nobody heard of it
        watched = Watched(engine, settings)
        watched.rounds()
        assert kinds(came) == []
        watched.later(TELLING_S + 1)
        watched.rounds()
    assert kinds(came) == ["raised"]


def test_many_who_look_at_the_same_moment_tell_it_once(engine: Engine) -> None:
    with hook() as (url, came):
        doubtful(engine)
        watched = Watched(engine, AlertSettings(in_doubt=1, webhook=url, webhook_secret=SECRET))
        threads = [threading.Thread(target=watch.round) for watch in watched.watches * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert kinds(came) == ["raised"]


def test_an_alarm_goes_by_mail_past_the_outbox(engine: Engine) -> None:
    with FaultServer(Faults()) as relay:
        doubtful(engine)
        smtp = FirstRelaySettings(host=relay.host, port=relay.port, security="none")
        watched = Watched(engine, AlertSettings(in_doubt=1, email=("ops@example.com", "dba@example.com")), smtp)
        watched.rounds()
    (message,) = relay.messages
    assert message.recipients == ("ops@example.com", "dba@example.com")
    assert b"Subject: [poller] Alarm: 1 message is in doubt; to settle: poller resolve" in message.content
    assert b"Auto-Submitted: auto-generated" in message.content


def test_a_database_that_is_away_is_told_of_by_who_misses_it_and_when_it_is_back(tmp_path: Path) -> None:
    away = connect(DatabaseSettings(url="postgresql://nobody@127.0.0.1:9/none"))
    with hook() as (url, came):
        now = [1000.0]
        settings = AlertSettings(database=300.0, webhook=url, webhook_secret=SECRET)
        watched = Watched(away, settings)
        watch = watched.watches[0]
        watch.clock = lambda: now[0]
        watch._own._clock = lambda: now[0]
        for seconds in (0.0, 299.0, 301.0, 310.0):
            now[0] = 1000.0 + seconds
            watch.round()
        assert kinds(came) == ["raised"]
        assert "the database is away" in json.loads(came[0][1])["words"]
        here = _outbox(tmp_path)
        watch.engine = here
        watch._shared._engine = here
        for seconds in (320.0, 381.0, 390.0):
            now[0] = 1000.0 + seconds
            watch.round()
        here.dispose()
    assert kinds(came) == ["raised", "over"]
    away.dispose()


def _outbox(directory: Path) -> Engine:
    (directory / "config.toml").write_text(f'[database]\nurl = "sqlite:///{directory}/outbox.db"\n')
    assert CliRunner().invoke(main, ["--config", f"{directory}/config.toml", "migrate"]).exit_code == 0
    return connect(DatabaseSettings(url=f"sqlite:///{directory}/outbox.db"))


# ---- the command


def test_the_command_tells_that_no_worker_is_alive_and_tries_all_ways(tmp_path: Path) -> None:
    _outbox(tmp_path).dispose()
    with hook() as (url, came):
        alerts = f'[alerts]\nsilent_worker = true\nwebhook = "{url}"\nwebhook_secret = "{SECRET}"\n'
        config = f'[database]\nurl = "sqlite:///{tmp_path}/outbox.db"\n[log]\nlevel = "error"\n{alerts}'
        (tmp_path / "config.toml").write_text(config)
        looked = CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "alerts"])
        tried = CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "alerts", "--test"])
    assert (looked.exit_code, "1 of what is watched is wrong" in looked.output) == (1, True)
    assert (tried.exit_code, "told by 1 of 1 ways" in tried.output) == (0, True)
    assert [json.loads(body)["words"].split(":")[0] for _, body in came] == [
        "no worker is alive; start one with",
        "this is a trial",
    ]


def test_without_anything_to_watch_the_command_says_what_to_write(tmp_path: Path) -> None:
    _outbox(tmp_path).dispose()
    looked = CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "alerts"])
    assert (looked.exit_code, 'nothing_sent = "10m"' in looked.output) == (2, True)
