"""The page, over a real socket: what it shows, to whom, and what is done from it."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import insert, row_of
from web.visit import ANNA, BOB, HTTP, Visitor, serving

from poller.outbox.report import glance
from poller.outbox.tables import attempt, recipient
from poller.settings import HttpSettings
from poller.web.site import FORM_MOST, PAGES, PATIENCE_S, POLICY

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

ONE = pytest.mark.parametrize("kind", ["sqlite"])
PATHS = [path.replace("{id:int}", "1") for path in PAGES]
DOUBT = {"status": "in_doubt", "message_id": "<d@example.com>", "claim_seq": 1, "error": "no reply", "doubts": 1}


def failed(engine: Engine, address: str, **columns: Any) -> int:
    words = {"error": f"refused at RCPT: 550 5.1.1 <{address}>: user unknown", "reply_code": 550}
    ended = {"status": "failed", "finished_at": datetime.now(UTC) - timedelta(minutes=5)}
    return insert(engine, recipients=address, **words | ended | columns)


def history(engine: Engine, row_id: int) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        lines = connection.execute(sa.select(attempt).where(attempt.c.outbox_id == row_id).order_by(attempt.c.id)).all()
    return [(line.worker, line.outcome) for line in lines]


# ---- who may see what


@ONE
@pytest.mark.parametrize("path", [*PATHS, "/row/1/html", "/row/1/message.eml", "/?part=live", "/find?q=a@example.com"])
def test_without_the_right_there_is_no_address_and_no_message(engine: Engine, port: int, path: str) -> None:
    insert(engine, recipients="a@example.com", subject="Secret", body_text="Secret", batch="secret")
    answer = Visitor(port).get(path)
    assert answer.code == 401
    assert [word for word in ("a@example.com</", "Secret", "secret<", "example.com<") if word in answer.text] == []


@ONE
@pytest.mark.parametrize("path", PATHS)
def test_every_page_has_a_title_and_the_policy(engine: Engine, bob: Visitor, path: str) -> None:
    insert(engine, recipients="a@example.com")
    answer = bob.get(path.replace("/batch", "/batches") if path == "/batch" else path)
    assert (answer.code, answer.headers["content-security-policy"]) == (200, POLICY)
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert "· poller</title>" in answer.text
    assert "/act" not in answer.text


@ONE
def test_a_token_lets_in_for_a_day_and_a_wrong_one_does_not(port: int) -> None:
    visitor = Visitor(port)
    assert visitor.enter("x" * 40).code == 403
    assert visitor.get("/workers").code == 401
    entered = visitor.enter(BOB)
    assert (entered.code, entered.headers["location"]) == (303, "/workers")
    assert all(word in entered.headers["set-cookie"] for word in ("HttpOnly", "SameSite=strict", "Max-Age=43200"))
    assert BOB not in entered.headers["set-cookie"]
    assert visitor.get("/workers").code == 200


@ONE
@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/\r\nX: y"]
)
def test_signing_in_leads_nowhere_else(port: int, to: str) -> None:
    answer = Visitor(port).post("/login", {"token": BOB, "to": to})
    assert (answer.code, answer.headers["location"], "x" in answer.headers) == (303, "/", False)


@ONE
def test_a_cookie_that_was_changed_is_nobodys(port: int, bob: Visitor) -> None:
    good = bob.headers["Cookie"]
    said, _, seal = good.rpartition(".")
    name, _, until = said.rpartition(".")
    bad = (
        f"{name.replace('bob', 'anna')}.{until}.{seal}",
        f"{name}.{int(until) + 1}.{seal}",
        f"{name}.{until}.{seal[:-1]}",
        "poller=..",
        "poller=bob.9999999999.é",
    )
    assert [Visitor(port, {"Cookie": cookie}).get("/workers").code for cookie in bad] == [401] * len(bad)
    assert Visitor(port, {"Cookie": good}).get("/workers").code == 200


@ONE
def test_a_program_shows_its_token_with_each_request(engine: Engine, port: int) -> None:
    row = insert(engine)
    program = Visitor(port, {"Authorization": f"Bearer {ANNA}"})
    assert program.get("/workers").code == 200
    assert program.post("/act", {"act": "pause", "id": row, "sure": "yes"}).code == 303
    assert row_of(engine, row).status == "paused"


@ONE
def test_a_proxy_is_believed_at_its_address_alone(engine: Engine, database: DatabaseSettings) -> None:
    insert(engine)
    believed = HttpSettings(listen="127.0.0.1:0", user_header="X-Remote-User", operators=("eve",))
    elsewhere = HttpSettings(listen="127.0.0.1:0", user_header="X-Remote-User", trusted_proxies=("10.0.0.0/8",))
    with serving(database, believed) as server, serving(database, elsewhere) as other:
        eve, fred = (Visitor(server.port, {"X-Remote-User": name}) for name in ("eve", "fred"))
        assert (eve.get("/row/1").code, "/act" in eve.get("/row/1").text) == (200, True)
        assert (fred.get("/row/1").code, "/act" in fred.get("/row/1").text) == (200, False)
        assert Visitor(server.port).get("/row/1").code == 401
        assert Visitor(other.port, {"X-Remote-User": "eve"}).get("/row/1").code == 401
        assert eve.act("pause", "/row/1", id=1).code == 303
    assert history(engine, 1) == [("operator eve", "pause")]


@ONE
def test_where_nobody_can_sign_in_the_page_says_what_to_write(database: DatabaseSettings) -> None:
    with serving(database, HttpSettings(listen="127.0.0.1:0")) as server:
        answer = Visitor(server.port).get("/")
        assert answer.code == 401
        assert "[http.tokens.anna]" in answer.words
        assert Visitor(server.port).get("/readyz").code == 200


# ---- what it shows


def test_a_row_is_found_and_its_whole_story_told(engine: Engine, bob: Visitor) -> None:
    row = failed(engine, "ann@example.com", subject="Order <7>", batch="news", message_id="<m@example.com>")
    with engine.begin() as connection:
        at = connection.execute(sa.select(sa.text("created_at")).select_from(sa.text("outbox"))).scalar_one()
        at = datetime.fromisoformat(at).replace(tzinfo=UTC) if isinstance(at, str) else at.replace(tzinfo=UTC)
        line = {"outbox_id": row, "claim_seq": 1, "at": at, "worker": "w1", "outcome": "deferred", "blame": "recipient"}
        connection.execute(sa.insert(attempt), [line | {"error": "450 4.2.1 try later", "relay": "mx.example:25"}])
    for words in ("Ann@example.com", "m@example.com", "news"):
        assert f'href="/row/{row}"' in bob.get(f"/find?q={words}").text
    told = bob.get(f"/row/{row}").words
    for words in (
        "Order <7>",
        "it is failed: refused at RCPT: 550 5.1.1",
        "450 4.2.1 try later",
        "with mx.example:25",
        "Message-ID <m@example.com>",
    ):
        assert words in told


def test_every_page_says_what_the_tables_say(engine: Engine, bob: Visitor) -> None:
    for number in range(3):
        failed(engine, f"a{number}@example.com", batch="news")
    insert(engine, recipients="b@example.org", batch="news")
    insert(engine, recipients="c@example.org", **DOUBT)
    pages = {
        "/": ("no worker is alive", "1 due now", "1 in doubt", "failed 3"),
        "/batches": ("news", "75 %"),
        "/batch?name=news": ("75.0 % of 4 messages", "3 not sent"),
        "/failures": ("3 did not get it", "refused at RCPT: 550 5.1.1 ADDRESS: user unknown"),
        "/failures?by=domain&batch=news": ("example.com",),
        "/destinations": ("localhost:587", "example.org"),
        "/doubts": ("c@example.org", "no reply", "<d@example.com>"),
        "/workers": ("No worker has ever worked here",),
    }
    found = {path: bob.get(path).words for path in pages}
    assert [(path, word) for path, words in pages.items() for word in words if word not in found[path]] == []


@ONE
def test_what_does_not_exist_or_makes_no_sense_is_said_so(bob: Visitor) -> None:
    asked = {"/row/7": 404, "/batch?name=x": 404, "/nowhere": 404, "/row/x": 404, f"/row/{'9' * 30}": 404}
    asked |= {"/failures?since=x": 400, "/failures?by=x": 400, "/row/7/html": 404, "/act": 404, "/batch?name=%00": 404}
    assert {path: bob.get(path).code for path in asked} == asked


@ONE
def test_words_from_outside_are_shown_and_not_obeyed(engine: Engine, bob: Visitor) -> None:
    evil = '"><script>alert(1)</script>{{ 7*7 }}\u202e'
    row = insert(
        engine, recipients="a@example.com", subject=evil, batch=evil, body_text=evil, **DOUBT | {"error": evil}
    )
    for path in (f"/row/{row}", "/doubts", "/batches", "/find?q=a@example.com", "/find?q=%22%3E%3Cscript%3E", "/"):
        text = bob.get(path).text
        assert "<script>alert" not in text
        assert "\u202e" not in text
    assert "49" not in bob.get(f"/row/{row}").text.partition("<pre")[2].partition("</pre>")[0]


@ONE
def test_the_message_is_shown_as_it_is_in_a_frame_of_its_own(engine: Engine, bob: Visitor) -> None:
    page = '<link rel="preconnect" href="http://evil.example"><p>Hello <img src="http://evil.example/x.png"></p>'
    row = insert(engine, body_text=None, body_html=page)
    story = bob.get(f"/row/{row}").text
    assert f'src="/row/{row}/html" sandbox=""' in story
    frame = bob.get(f"/row/{row}/html")
    assert "<p>Hello" in frame.text
    assert "preconnect" not in frame.text
    policy = frame.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "img-src data:", "form-action 'none'", "sandbox"} <= set(policy)
    eml = bob.get(f"/row/{row}/message.eml")
    assert (eml.headers["content-type"], "Subject: Hi" in eml.text) == ("message/rfc822", True)


@ONE
def test_a_row_of_which_no_message_can_be_made_says_why(engine: Engine, bob: Visitor) -> None:
    row = insert(engine, recipients="nobody")
    assert "become a message: recipients: 'nobody'" in bob.get(f"/row/{row}").words


# ---- what is done from it


def test_failures_of_one_reason_start_afresh_and_no_others(engine: Engine, anna: Visitor) -> None:
    mine = [failed(engine, f"a{number}@example.com") for number in range(3)]
    other = failed(engine, "b@example.com", error="the relay says no")
    reason = "refused at RCPT: 550 5.1.1 ADDRESS: user unknown"
    done = anna.act("retry", "/failures", cause=reason, by="reason", since="1d", batch="")
    assert done.headers["location"] == "/failures?done=retry&rows=3&hand=0"
    assert [row_of(engine, row).status for row in (*mine, other)] == ["queued"] * 3 + ["failed"]
    assert history(engine, mine[0]) == [("operator anna", "retry")]
    assert "3 rows were started again" in anna.get(done.headers["location"]).words


def test_a_batch_is_held_back_and_let_go(engine: Engine, anna: Visitor) -> None:
    rows = [insert(engine, batch="news") for _ in range(3)]
    at = "/batch?name=news"
    assert anna.act("pause", at, batch="news").headers["location"] == f"{at}&done=pause&rows=3&hand=0"
    assert {row_of(engine, row).status for row in rows} == {"paused"}
    anna.act("resume", at, batch="news")
    assert {row_of(engine, row).status for row in rows} == {"queued"}
    assert history(engine, rows[0]) == [("operator anna", "pause"), ("operator anna", "resume")]


def test_a_doubt_is_settled_for_a_row_or_for_one_of_its_recipients(engine: Engine, anna: Visitor) -> None:
    alone, several = insert(engine, **DOUBT), insert(engine, recipients="a@x.example, b@x.example", **DOUBT)
    at = datetime.now(UTC)
    with engine.begin() as connection:
        lines = [{"outbox_id": several, "address": f"{name}@x.example", "updated_at": at} for name in "ab"]
        connection.execute(sa.insert(recipient), [line | {"status": "in_doubt"} for line in lines])
    assert anna.act("resolve-sent", "/doubts", id=alone).code == 303
    assert row_of(engine, alone).status == "sent"
    assert anna.act("resolve-failed", f"/row/{several}", id=several, address="a@x.example").code == 303
    assert row_of(engine, several).status == "in_doubt"
    assert anna.act("resolve-sent", f"/row/{several}", id=several, address="b@x.example").code == 303
    assert row_of(engine, several).status == "partial"


@ONE
def test_everything_is_switched_off_and_on_with_a_name(engine: Engine, anna: Visitor) -> None:
    anna.act("switch-off", "/", why="the logo is  wrong")
    assert glance(engine).paused == "the logo is wrong (operator anna)"
    assert "the whole outbox is off: the logo is wrong (operator anna)" in anna.get("/").words
    anna.act("switch-on", "/")
    assert glance(engine).paused is None


@ONE
def test_it_asks_before_it_acts_and_says_how_many(engine: Engine, anna: Visitor) -> None:
    rows = [insert(engine, batch="news") for _ in range(2)]
    form = {"act": "cancel", "batch": "news", "seal": anna.get("/batch?name=news").seal}
    asked = anna.post("/act", form)
    assert "2 rows will be given up: batch news" in asked.words
    assert [row_of(engine, row).status for row in rows] == ["queued"] * 2
    nothing = anna.post("/act", {**form, "act": "retry"})
    assert "There is nothing to do" in nothing.words


@ONE
def test_nobody_acts_without_the_right_or_by_a_forged_form(
    engine: Engine, anna: Visitor, bob: Visitor, port: int
) -> None:
    row = insert(engine)
    form = {"act": "cancel", "id": row, "sure": "yes"}
    seal = anna.get(f"/row/{row}").seal
    refused = {
        "nobody": Visitor(port).post("/act", {**form, "seal": seal}).code,
        "who may only read": bob.post("/act", {**form, "seal": seal}).code,
        "no seal": anna.post("/act", form).code,
        "a wrong seal": anna.post("/act", {**form, "seal": "0" * 64}).code,
        "from another site": anna.post("/act", {**form, "seal": seal}, Sec_Fetch_Site="cross-site").code,
        "too large": anna.post("/act", {**form, "seal": seal, "x": "x" * FORM_MOST}).code,
        "by address": anna.get(f"/act?act=cancel&id={row}&sure=yes&seal={seal}").code,
    }
    assert refused == dict.fromkeys(refused, 403) | {"nobody": 401, "by address": 404}
    assert (row_of(engine, row).status, history(engine, row)) == ("queued", [])


@ONE
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"act": "drop"},
        {"act": "pause"},
        {"act": "pause", "id": "x"},
        {"act": "pause", "status": "x"},
        {"act": "retry", "cause": "x", "by": "x"},
        {"act": "retry", "cause": "x", "since": "x"},
        {"act": "resolve-sent", "id": "1", "address": "z@example.com", "sure": "yes"},
    ],
)
def test_a_form_that_makes_no_sense_does_nothing(engine: Engine, anna: Visitor, form: dict[str, str]) -> None:
    row = insert(engine, **DOUBT)
    answer = anna.post("/act", {**form, "seal": anna.get("/doubts").seal})
    assert (answer.code, row_of(engine, row).status) == (400, "in_doubt")


@ONE
def test_what_the_last_act_did_can_not_be_made_up_in_an_address(bob: Visitor) -> None:
    assert "buy" not in bob.get("/?done=buy+now&rows=1&hand=0").words
    assert "rows were" not in bob.get("/?done=retry&rows=1e9&hand=0").words


@ONE
def test_who_leaves_has_to_sign_in_again(bob: Visitor) -> None:
    assert "Max-Age=0" in bob.post("/logout", {}).headers["set-cookie"]


# ---- the server


@ONE
def test_a_client_that_says_nothing_is_dropped_and_holds_up_nobody(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S + 5) as silent:
        silent.sendall(b"GET /hea")
        assert Visitor(port).get("/healthz").code == 200
        assert silent.recv(100) == b""


@ONE
def test_a_database_that_is_away_is_said_so(database: DatabaseSettings) -> None:
    gone = type(database)(url="postgresql://nobody@127.0.0.1:1/none")
    with serving(gone, HTTP) as server:
        visitor = Visitor(server.port)
        visitor.enter(BOB)
        answer = visitor.get("/doubts")
        assert (answer.code, "The database is not available" in answer.words) == (503, True)
        assert visitor.get("/readyz").code == 503


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/find?q=%00", 200),
        ("/find?q=%ff%fe", 200),
        ("/find?q=" + "x" * 5000, 200),
        ("/batch?name=%00", 404),
        ("/batch?name=%ed%a0%80", 404),
        ("/row/99999999999999999999", 404),
        ("/failures?batch=%00", 200),
        ("/failures?since=99999999d", 400),
        ("/failures?by=nonsense", 400),
    ],
    ids=lambda part: str(part)[:30],
)
def test_whatever_is_asked_for_is_answered(bob: Visitor, path: str, code: int) -> None:
    assert bob.get(path).code == code
