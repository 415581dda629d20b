"""`poller login`: a person agrees once, and a refresh token is written down for the service.

The relay is the one in the configuration whose table `oauth2` has the provider as its preset; `--relay` names it where
there are several, or where the addresses are written out. Nothing else is changed: the configuration stays as it is.

Rule 1. What has to be written is known to be writable before anybody is sent to a browser.
Rule 2. The token is shown nowhere; what is shown is for whom it is, and what to do next.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli.screen import say
from poller.cli.session import Misused, Stop, configuration, in_words
from poller.cli.token import in_words as token_in_words
from poller.config.sources import dotted
from poller.smtp.consent import by_device, by_loopback
from poller.smtp.oauth2 import way_of
from poller.smtp.refresh_file import write_refresh_token
from poller.smtp.token_answers import NoToken

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.smtp.consent import Invitation
    from poller.smtp.relays import RelaySettings
    from poller.smtp.settings import OAuth2Settings
    from poller.smtp.token_answers import Token

USUAL_FLOW = {"google": "browser", "microsoft365": "device"}
"""Google's device flow gives no scope for mail."""


@click.command()
@click.argument("provider", type=click.Choice([*USUAL_FLOW]))
@click.option("--relay", "name", metavar="NAME", help="The relay, where several have this provider.")
@click.option("--browser/--device", default=None, help="A browser on this machine, or a code typed in elsewhere.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where the browser comes back to [any].")
@click.pass_context
@in_words
def login(context: click.Context, provider: str, name: str | None, browser: bool | None, port: int) -> None:  # noqa: FBT001 - click's signature
    """Have a person agree that poller sends in their name, and write the refresh token down.

    microsoft365 gives a code to type in on any device; google wants a browser that can reach this machine.
    """
    table, relay = _chosen(configuration(context, to_send=True), provider, name)
    settings = relay.oauth2
    path = _file_to_write(settings, table)
    way = way_of(settings, "refresh_token")
    flow = USUAL_FLOW[provider] if browser is None else "browser" if browser else "device"
    if not (way.authorize_url if flow == "browser" else way.device_url):
        key = "authorize_url" if flow == "browser" else "device_url"
        raise Misused(f"{provider} has no such way to log in; use another, or set [{table}.oauth2] {key}")
    say(f"log in as {relay.username}: the mailbox that mail is sent from", err=True)
    try:
        token = by_device(settings, _show) if flow == "device" else by_loopback(settings, _show, port=port)
        write_refresh_token(path, token.refresh or "")
    except NoToken as trouble:
        raise Stop(trouble.reason.replace("[smtp", f"[{table}")) from None
    _told(token, path, relay, table)


def _told(token: Token, path: str, relay: RelaySettings, table: str) -> None:
    say(f"the refresh token is in {path}; the first token is {token_in_words(token, token.ends - time.monotonic())}")
    user = token.claims.user
    if user and user.lower() != (relay.username or "").lower():
        say(f"it is for {user}, and [{table}] username is {relay.username}: the relay may refuse it", err=True)
    if relay.oauth2.grant != "refresh_token" and way_of(relay.oauth2).grant != "refresh_token":
        say(f'set [{table}.oauth2] grant = "refresh_token", so that it is used', err=True)
    say("next: poller check", err=True)


def _show(invitation: Invitation) -> None:
    if invitation.code:
        say(f"open {invitation.url} on any device, and type in: {invitation.code}")
        return
    port = invitation.port
    say(f"for a browser elsewhere, go there with: ssh -L {port}:127.0.0.1:{port} (--port chooses the port)", err=True)
    say("open this address in a browser on this machine:", err=True)
    say(invitation.url)


def _chosen(config: Config, provider: str, name: str | None) -> tuple[str, RelaySettings]:
    """The table and the relay. Raises Misused."""
    relays: dict[str, tuple[str, RelaySettings]] = {config.smtp.name: ("smtp", config.smtp)}
    relays |= {other: (dotted(("relays", other)), relay) for other, relay in config.relays.items()}
    if name is not None:
        if name not in relays:
            raise Misused(f"there is no relay {name}; there are: {', '.join(relays)}")
        return relays[name]
    fitting = [found for found in relays.values() if found[1].oauth2.preset == provider]
    if not fitting:
        raise Misused(
            f'no relay has [smtp.oauth2] preset = "{provider}" (or [relays.NAME.oauth2]); write it, with client_id'
        )
    if len(fitting) > 1:
        tables = ", ".join(table for table, _ in fitting)
        raise Misused(f"several relays have this preset ({tables}); choose one with --relay")
    return fitting[0]


def _file_to_write(settings: OAuth2Settings, table: str) -> str:
    """Rule 1. Raises Misused."""
    if not settings.client_id:
        raise Misused(f"[{table}.oauth2] has no client_id; the provider gives one when you register the app")
    if not settings.refresh_token_file:
        raise Misused(f"[{table}.oauth2] has no refresh_token_file; write where the token is to be kept")
    directory = Path(os.path.realpath(settings.refresh_token_file)).parent
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Misused(
            f"[{table}.oauth2] refresh_token_file: {directory} is not writable for you; run it as poller's user"
        )
    return settings.refresh_token_file
