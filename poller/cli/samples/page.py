"""The demo's page. Anyone who sits at this machine may look and act there, without a token: the mail is made up."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from poller.settings import HttpSettings
from poller.web.server import has_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config

PLACES = ("127.0.0.1:8025", "127.0.0.1:0")
"""The usual one, else any that is free."""


@contextmanager
def page_of(config: Config) -> Iterator[str]:
    """Serve it meanwhile. Gives its address; "" where the extra is not installed."""
    if not has_page(config):
        yield ""
        return
    from poller.web.access import Visitor  # noqa: PLC0415 - an extra
    from poller.web.site import PageServer  # noqa: PLC0415 - the same

    host = Visitor(name="demo", may_act=True, ground="demo")
    for place in PLACES:
        try:
            server = PageServer(replace(config, http=HttpSettings(listen=place)), None, host)
            break
        except OSError:
            if place == PLACES[-1]:
                raise
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.stop()
