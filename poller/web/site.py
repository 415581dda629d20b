"""The page: its addresses, who may ask for them, and the server.

Rule 1. Every answer carries POLICY: no script but ours, nothing from elsewhere, in nobody's frame.
Rule 2. `GET` changes nothing. Each `POST` is weighed before it is read for what it wants: the right, then the seal.
Rule 3. A connection that sends no whole request within PATIENCE_S is dropped, a form larger than FORM_MOST refused.

Raises OSError where it can't listen.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from poller.outbox.database import DatabaseUnavailable, connect
from poller.web.access import COOKIE, STAY_S, Access, Asking, Visitor
from poller.web.acts import WORDS, Acts
from poller.web.fresh import Fresh
from poller.web.plain import answers
from poller.web.preview import PREVIEW_POLICY
from poller.web.templates import FILES, render
from poller.web.views import Misasked, Missing, Views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.web.plain import Answer
    from poller.web.views import Values
    from poller.worker.service import Service

PATIENCE_S = 5.0
FORM_MOST = 64 * 1024
"""Bytes."""
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-DNS-Prefetch-Control": "off",
    "Cache-Control": "no-store",
}
_OWN_SITE = frozenset({"", "same-origin", "none"})
"""Of `Sec-Fetch-Site`; old browsers don't send it."""

PAGES = {
    "/": "overview",
    "/find": "find",
    "/batches": "batches",
    "/batch": "batch",
    "/failures": "failures",
    "/destinations": "destinations",
    "/doubts": "doubts",
    "/workers": "workers",
    "/row/{id:int}": "row",
}
"""Each with its view and its template."""


class Site:
    """The application for a server: `app`."""

    def __init__(
        self, config: Config, engine: Engine, access: Access, plain: Mapping[str, Callable[[], Answer]]
    ) -> None:
        self._access = access
        self._fresh = Fresh()
        self._views = Views(config, engine, self._fresh)
        self._acts = Acts(engine, self._views)
        routes = [Route(path, self._page(name)) for path, name in PAGES.items()]
        routes += [Route(path, _plainly(answer)) for path, answer in plain.items()]
        routes += [Route(f"/{name}", _file(name), name=name) for name in FILES]
        routes += [
            Route("/row/{id:int}/html", self._html),
            Route("/row/{id:int}/message.eml", self._eml),
            Route("/login", self._login_form),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/act", self._act, methods=["POST"]),
        ]
        self.app: ASGIApp = _Guarded(Starlette(routes=routes, exception_handlers={404: _nowhere, 405: _nowhere}))

    def close(self) -> None:
        """Ask no more."""
        self._fresh.close()

    # ---- looking

    def _page(self, name: str) -> Callable[[Request], Response]:
        view: Callable[[Mapping[str, str]], Values] = getattr(self._views, name)

        def page(request: Request) -> Response:
            visitor = self._visitor(request)
            if visitor is None:
                return self._stranger(request)
            return self._answered(request, visitor, name, lambda: view(_asked(request)))

        return page

    def _answered(self, request: Request, visitor: Visitor, name: str, ask: Callable[[], Values]) -> Response:
        try:
            values = ask()
        except Missing as why:
            return self._words(request, visitor, 404, "Not here", str(why))
        except Misasked as why:
            return self._words(request, visitor, 400, "That can't be asked", str(why))
        except DatabaseUnavailable as why:
            words = f"The database is not available: {why}; {why.remedy}."
            return self._words(request, visitor, 503, "The database is away", words)
        return self._rendered(request, visitor, name, values)

    def _words(self, request: Request, visitor: Visitor | None, code: int, title: str, words: str) -> Response:
        return self._rendered(request, visitor, "words", {"title": title, "words": words}, code=code)

    def _rendered(
        self, request: Request, visitor: Visitor | None, name: str, values: Values, *, code: int = 200
    ) -> Response:
        shared = {
            "visitor": visitor,
            "seal": self._access.form_seal(visitor) if visitor else "",
            "here": _here(request),
            "path": request.url.path,
            "done": _done(request),
            "can_login": self._access.has_tokens,
        }
        only = "live" if request.query_params.get("part") == "live" and code == 200 else None  # noqa: PLR2004 - HTTP
        return HTMLResponse(render(name, {**shared, **values}, only=only), status_code=code)

    def _html(self, request: Request) -> Response:
        """For the frame. It has a policy of its own."""
        if self._visitor(request) is None:
            return Response("sign in first", status_code=401, media_type="text/plain")
        try:
            html = self._views.preview(_asked(request)).html
        except (Missing, DatabaseUnavailable) as why:
            return Response(str(why), status_code=404, media_type="text/plain")
        return HTMLResponse(html or "", headers={"Content-Security-Policy": PREVIEW_POLICY})

    def _eml(self, request: Request) -> Response:
        """The whole message, as a file."""
        visitor = self._visitor(request)
        if visitor is None:
            return self._stranger(request)
        asked = _asked(request)
        try:
            content = self._views.content(asked)
        except (Missing, DatabaseUnavailable) as why:
            return self._words(request, visitor, 404, "Not here", str(why))
        name = f'attachment; filename="row-{asked["id"]}.eml"'
        return Response(content, media_type="message/rfc822", headers={"Content-Disposition": name})

    # ---- coming and going

    def _visitor(self, request: Request) -> Visitor | None:
        peer = request.client.host if request.client else ""
        cookie = request.cookies.get(COOKIE, "")
        return self._access.visitor(Asking(peer=peer, headers=request.headers, cookie=cookie))

    def _stranger(self, request: Request) -> Response:
        return self._rendered(request, None, "login", {"to": _here(request), "wrong": False}, code=401)

    def _login_form(self, request: Request) -> Response:
        to = _local(request.query_params.get("to", "/"))
        return self._rendered(request, None, "login", {"to": to, "wrong": False})

    async def _login(self, request: Request) -> Response:
        form = await _form(request)
        cookie = self._access.enter(form.get("token", "")) if form and _is_ours(request) else ""
        to = _local((form or {}).get("to", "/"))
        if not cookie:
            return self._rendered(request, None, "login", {"to": to, "wrong": True}, code=403)
        answer = RedirectResponse(to, status_code=303)
        answer.set_cookie(
            COOKIE, cookie, max_age=STAY_S, httponly=True, samesite="strict", secure=self._is_secure(request)
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        answer = RedirectResponse("/login", status_code=303)
        if _is_ours(request):
            answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser speaks TLS, with us or with the proxy."""
        peer = request.client.host if request.client else ""
        told = request.headers.get("x-forwarded-proto", "") if self._access.is_proxy(peer) else ""
        return "https" in {told, request.url.scheme}

    # ---- acting

    async def _act(self, request: Request) -> Response:
        """Show what would be touched; do it where the form says that this was seen."""
        visitor = self._visitor(request)
        if visitor is None:
            return self._stranger(request)
        if not visitor.may_act:
            words = f"{visitor.name} may read and not act: [http.tokens.{visitor.name}] right, or [http] operators."
            return self._words(request, visitor, 403, "Not allowed", words)
        form = await _form(request)
        if form is None or not _is_ours(request) or not self._access.is_genuine(visitor, form.get("seal", "")):
            words = "This form was not made for you, or is too old. Nothing was done. Go back, reload, and try again."
            return self._words(request, visitor, 403, "Not done", words)
        return await run_in_threadpool(self._weighed, request, visitor, form)

    def _weighed(self, request: Request, visitor: Visitor, form: Mapping[str, str]) -> Response:
        back = _local(form.get("back", "/"))
        if form.get("sure") != "yes":
            kept = {name: value for name, value in form.items() if name not in {"seal", "sure"}}
            return self._answered(
                request, visitor, "act", lambda: {"plan": self._acts.plan(form), "form": kept, "back": back}
            )
        try:
            done = self._acts.do(form, visitor.name)
        except Misasked as why:
            return self._words(request, visitor, 400, "Not done", str(why))
        except DatabaseUnavailable as why:
            return self._words(request, visitor, 503, "Not done, or not all", f"The database is not available: {why}.")
        self._fresh.forget()
        said = urlencode({"done": form["act"], "rows": done.rows, "hand": done.in_hand})
        return RedirectResponse(f"{back}{'&' if '?' in back else '?'}{said}", status_code=303)


def _asked(request: Request) -> dict[str, str]:
    asked = {**request.query_params, **{name: str(value) for name, value in request.path_params.items()}}
    return {name: value.replace("\0", "\ufffd") for name, value in asked.items()}


def _here(request: Request) -> str:
    """The address that was asked for, to come back to, without what was said of the last act."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in _SAID]
    query = f"?{urlencode(kept)}" if kept else ""
    return f"{quote(request.url.path)}{query}" if request.method == "GET" else "/"


_SAID = frozenset({"done", "rows", "hand", "part"})


def _done(request: Request) -> dict[str, Any] | None:
    """What the last act did: words and numbers of ours alone, since anybody can write an address."""
    asked = request.query_params
    words, rows, hand = WORDS.get(asked.get("done", "")), asked.get("rows", ""), asked.get("hand", "")
    if words is None or not (rows.isascii() and rows.isdecimal() and hand.isascii() and hand.isdecimal()):
        return None
    return {"words": words[1], "rows": int(rows[:12]), "hand": int(hand[:12]), "act": asked["done"]}


def _local(to: str) -> str:
    """An address of this page; anything else is the start."""
    is_local = to.startswith("/") and not to.startswith("//") and "\\" not in to and to.isprintable()
    return to if is_local and to.isascii() else "/"


def _is_ours(request: Request) -> bool:
    return request.headers.get("sec-fetch-site", "") in _OWN_SITE


async def _form(request: Request) -> dict[str, str] | None:
    """A form's fields; None: it is too large, too slow, or none."""
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for some in request.stream():
                body += some
                if len(body) > FORM_MOST:
                    return None
        text = body.decode("ascii").replace("%00", "%EF%BF%BD")  # no database takes a NUL
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50))
    except (TimeoutError, ValueError):
        return None


def _plainly(answer: Callable[[], Answer]) -> Callable[[Request], Response]:
    def plain(_: Request) -> Response:
        said = answer()
        return Response(said.body, status_code=said.code, headers={"Content-Type": said.kind})

    return plain


def _file(name: str) -> Callable[[Request], Response]:
    kind, content = FILES[name]

    def file(_: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "max-age=3600"})

    return file


def _nowhere(_request: Request, _error: Exception) -> Response:
    return HTMLResponse(render("nowhere", {}), status_code=404)


class _Guarded:
    """Puts Rule 1 on every answer that has no policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [
                    (n.lower().encode(), v.encode()) for n, v in _HEADERS.items() if n.lower().encode() not in there
                ]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self._app(scope, receive, guarded)


class _Impatient(H11Protocol):
    """Drops who sends no whole request (Rule 3)."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(PATIENCE_S, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        if getattr(self, "cycle", None) is None:
            self.transport.close()


class PageServer:
    """Listens from its making on, answers from `start` to `stop`, in threads of its own."""

    def __init__(self, config: Config, service: Service | None, host: Visitor | None = None) -> None:
        self._engine = connect(config.database)
        self._site = Site(config, self._engine, Access(config.http, host), answers(service, self._engine))
        port = int((config.http.listen or "").rpartition(":")[2])
        family = socket.AF_INET6 if ":" in config.http.host else socket.AF_INET
        self._socket = socket.create_server((config.http.host, port), family=family, backlog=128)
        settings = uvicorn.Config(
            self._site.app,
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(PATIENCE_S)
        self._socket.close()
        self._site.close()
        self._engine.dispose()
