"""The page in a real browser: Chromium, driven by Playwright. Skipped where either is missing.

With POLLER_TEST_SCREENSHOTS=DIRECTORY it leaves a picture of every page there, in light, dark and phone width.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from databases import free_port
from servers.fault import Faults, FaultServer
from servers.nodes import MODULES
from service.bench import Bench, terminate
from web.visit import ANNA, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from playwright.sync_api import Browser, Page

    from poller.outbox.settings import DatabaseSettings

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.parametrize("kind", ["sqlite"]),
    pytest.mark.xdist_group("browser"),
]
AXE = MODULES / "axe-core" / "axe.min.js"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK, "color_scheme": "light"},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light"},
}
DOUBT = {"status": "in_doubt", "message_id": "<d@example.com>", "claim_seq": 1, "error": "no reply", "doubts": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def bench(database: DatabaseSettings, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(database=database, directory=tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def address(database: DatabaseSettings) -> Iterator[str]:
    """Of a page without a worker."""
    with serving(database) as server:
        yield f"http://127.0.0.1:{server.port}"


@contextlib.contextmanager
def at_work(bench: Bench, relay: FaultServer) -> Iterator[str]:
    """`poller run` with the page; gives its address."""
    port = free_port()
    config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
    config.write_text(f'{config.read_text()}[http.tokens.anna]\ntoken = "{ANNA}"\nright = "act"\n')
    with bench.running(config) as process:
        bench.wait_for(lambda: any(line["event"] == "worker.started" for line in bench.log()))
        yield f"http://127.0.0.1:{port}"
        terminate(process)


@contextlib.contextmanager
def visiting(browser: Browser, address: str, token: str = ANNA, **look: Any) -> Iterator[Page]:
    """Signed in, by the form."""
    context = browser.new_context(**look)
    page = context.new_page()
    page.goto(address)
    page.get_by_label("Your token").fill(token)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    yield page
    context.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def agree(page: Page, act: str) -> str:
    """Press the button, and press it again on the page that asks; what is said then."""
    page.get_by_role("button", name=act).first.click()
    page.get_by_role("heading", name=f"{act}?").wait_for()
    page.get_by_role("button", name=act, exact=True).click()
    return page.get_by_role("status").first.inner_text()


class Canary:
    """Anyone who fetches anything from it is counted; `page` is what it serves."""

    def __init__(self, page: str = "") -> None:
        heard = self.heard = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *_: object) -> None:
                """Counted is enough."""

        class Server(http.server.ThreadingHTTPServer):
            def verify_request(self, *_: Any) -> bool:  # a connection alone tells too much
                heard.append("connected")
                return True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


HOSTILE = """\
<html><head><meta http-equiv="refresh" content="0;url={0}/refresh"><base href="{0}/">
<link rel="preconnect" href="{0}"><link rel="stylesheet" href="{0}/style.css"><link rel="prefetch" href="{0}/p">
<li<link>nk rel="preconnect" href="{0}"><link rel="dns-prefetch" href="{0}">
<style>@import "{0}/import.css"; @font-face {{ font-family: f; src: url({0}/font) }}
body {{ background: url({0}/background.png); font-family: f }}</style>
<script>top.hacked = parent.hacked = 1; fetch("{0}/fetch")</script><script src="{0}/s.js"></script></head>
<body onload="parent.hacked = 2"><img src="{0}/x.png" onerror="parent.hacked = 3"><svg onload="parent.hacked = 4">
<image href="{0}/svg.png"/><use href="{0}/use.svg#a"/></svg><iframe src="{0}/frame"></iframe>
<object data="{0}/object"></object><embed src="{0}/embed"><video src="{0}/v" poster="{0}/poster" autoplay></video>
<audio src="{0}/a" autoplay></audio><picture><source srcset="{0}/set.png"><img srcset="{0}/set2.png 2x"></picture>
<table background="{0}/table.png"><tr><td style="background: url({0}/td.png)">Hello</td></tr></table>
<form action="{0}/form" target="_top"><input name="a" autofocus onfocus="parent.hacked = 5"><button>Send</button></form>
<a href="{0}/link" ping="{0}/ping">Go there</a> <a href="{0}/top" target="_top">And there</a></body></html>"""


def test_hostile_html_runs_nothing_and_fetches_nothing(browser: Browser, bench: Bench, address: str) -> None:
    with Canary() as canary:
        row = bench.insert(body_html=HOSTILE.format(canary.address), due_at=datetime(2030, 1, 1, tzinfo=UTC))[0]
        with visiting(browser, address) as page:
            page.on("dialog", lambda dialog: canary.heard.append(dialog.message))
            for press in ("Hello", "Go there", "And there", "Send"):  # a link that was followed leaves an empty frame
                page.goto(f"{address}/row/{row}")
                page.frame_locator("iframe").get_by_text(press).click(no_wait_after=True)
                page.wait_for_timeout(300)
            assert page.evaluate("window.hacked") is None
            assert page.url == f"{address}/row/{row}"
            page.goto(f"{address}/row/{row}/html")  # without the frame around it
            page.wait_for_timeout(700)
            assert canary.heard == []
            page.goto("about:blank")
            page.set_content(f'<img src="{canary.address}/x.png">')  # the canary does hear
            until(lambda: bool(canary.heard))


def test_the_page_follows_five_thousand_rows_as_they_go_out(browser: Browser, bench: Bench) -> None:
    with FaultServer() as relay, at_work(bench, relay) as address, visiting(browser, address) as page:
        page.get_by_text("Nothing is due").wait_for()
        bench.insert(5000)
        page.get_by_text("Mail is going out").wait_for()
        seen = {page.locator("#done").get_attribute("value")}
        until(lambda: len(seen.add(page.locator("#done").get_attribute("value")) or seen) >= 3, seconds=60)
        page.get_by_text("100.0 % of 5,000 messages").wait_for(timeout=90_000)
        assert bench.statuses() == Counter(sent=5000)
        page.get_by_role("button", name="Live").click()
        assert page.get_by_role("button", name="Held still").get_attribute("aria-pressed") == "false"


def test_everything_an_operator_does_works_without_any_script(browser: Browser, bench: Bench) -> None:
    refused = Faults(refuse=frozenset(f"user{n}@example.com" for n in range(3)))
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with FaultServer(refused) as relay, at_work(bench, relay) as address:
        bench.insert(3)
        bench.wait_for(lambda: bench.statuses()["failed"] == 3)
        held = bench.insert(4, batch="news", due_at=later, recipients="n{n}@example.org")
        doubt = bench.insert(**DOUBT)[0]
        with visiting(browser, address, java_script_enabled=False) as page:
            page.get_by_label("Find a row").fill("N1@example.org")
            page.get_by_role("button", name="Find").click()
            page.get_by_role("link", name=str(held[1])).click()
            page.get_by_text("it is due in").wait_for()
            page.goto(f"{address}/failures")
            page.get_by_role("button", name="Retry these").click()
            page.get_by_text("3 rows will be started again").wait_for()
            page.get_by_role("button", name="Start again").click()
            assert "3 rows were started again" in page.get_by_role("status").first.inner_text()
            page.goto(f"{address}/batch?name=news")
            assert agree(page, "Hold back") == "4 rows were held back."
            assert {bench.row(row).status for row in held} == {"paused"}
            assert agree(page, "Let go") == "4 rows were let go."
            page.goto(f"{address}/doubts")
            assert agree(page, "It was delivered") == "1 row was taken as sent."
        assert bench.row(doubt).status == "sent"
        assert [(line.worker, line.outcome) for line in bench.history(held[0])] == [
            ("operator anna", "pause"),
            ("operator anna", "resume"),
        ]


def test_by_keyboard_alone(browser: Browser, bench: Bench, address: str) -> None:
    row = bench.insert(**DOUBT)[0]
    with visiting(browser, address) as page:
        page.goto(f"{address}/doubts")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        for _ in range(2):  # the row, then the first button
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "It was delivered"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="It was delivered?").wait_for()
        page.get_by_role("button", name="It was delivered").focus()
        page.keyboard.press("Enter")
        page.get_by_text("1 row was taken as sent.").wait_for()
    assert bench.row(row).status == "sent"


def test_a_foreign_page_can_not_act_with_a_visitors_cookie(browser: Browser, bench: Bench, address: str) -> None:
    row = bench.insert()[0]
    fields = {"act": "cancel", "id": row, "sure": "yes"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    form = f'<form id="f" method="post" action="{address}/act">{inputs}</form><script>f.submit()</script>'
    with visiting(browser, address) as page, Canary(form) as elsewhere:
        page.goto(elsewhere.address, wait_until="commit")
        page.get_by_role("heading", name="Sign in").wait_for()
        assert bench.row(row).status == "queued"
        page.goto(address)
        page.get_by_role("heading", name="Overview").wait_for()  # the cookie was there all the time


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core in .cache/npm (run tests/servers/fetch_npm.sh)")
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    browser: Browser, bench: Bench, address: str, look: str
) -> None:
    pictures = os.environ.get("POLLER_TEST_SCREENSHOTS")
    ended = {"finished_at": datetime.now(UTC), "batch": "news"}
    rows = bench.insert(9, body_html="<h1>Hello {n}</h1>", status="sent", sent_at=datetime.now(UTC), **ended)
    bench.insert(2, status="failed", error="550 5.1.1 user{n}@example.com: user unknown", **ended)
    bench.insert(3, batch="spring", status="paused")
    doubt = bench.insert(**DOUBT)[0]
    paths = {"overview": "/", "find": "/find?q=user3@example.com", "nothing": "/find?q=x", "batches": "/batches"}
    paths |= {"batch": "/batch?name=spring", "failures": "/failures", "destinations": "/destinations"}
    paths |= {"doubts": "/doubts", "workers": "/workers", "row": f"/row/{rows[3]}", "doubt": f"/row/{doubt}"}
    found: list[str] = []
    with visiting(browser, address, bypass_csp=True, **LOOKS[look]) as page:
        for name, path in paths.items():
            page.goto(address + path)
            found += [f"{name}: {what}" for what in judged(page)]
            if pictures:
                page.screenshot(path=Path(pictures, f"{look}-{name}.png"), full_page=True)
        page.goto(f"{address}/batch?name=spring")
        page.get_by_role("button", name="Let go").click()
        found += [f"asked: {what}" for what in judged(page)]
        page.context.clear_cookies()
        page.goto(address)
        found += [f"login: {what}" for what in judged(page)]
    assert found == []


def judged(page: Page) -> list[str]:
    """What axe calls serious or critical, and what sticks out."""
    page.add_script_tag(path=AXE)
    result = page.evaluate("axe.run(document, {iframes: false})")
    bad = [one for one in result["violations"] if one["impact"] in {"serious", "critical"}]
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in bad] + ["wider than the screen"] * wide
