"""Tokens at a server that is not ours: Dovecot's submission, which asks the endpoint whose a token is (RFC 7662)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers import dovecot
from servers.dovecot import Submission
from servers.tokens import Said, TokenEndpoint, said
from smtp.letters import courier_to, letters, settings

from poller.exchange import RelayTrouble
from poller.smtp.courier import Courier
from poller.smtp.settings import OAuth2Settings

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(bool(dovecot.available()), reason=dovecot.available() or "it is there")


def giving(good: set[str], *, size: int = 20) -> Callable[[dict[str, str]], Said]:
    """token-1…, token-2…, of which those that begin with a `good` one are active."""
    count = iter(range(1, 100))

    def answer(form: dict[str, str]) -> Said:
        if form["path"] == "/introspect":
            return said({"active": form["token"].rstrip("x") in good, "username": "shop"})
        return said({"access_token": f"token-{next(count)}".ljust(size, "x"), "expires_in": 3600})

    return answer


@pytest.mark.parametrize("auth", ["auto", "oauthbearer"])
@pytest.mark.parametrize("size", [20, 2000])
def test_dovecot_takes_our_tokens(auth: str, size: int) -> None:
    with TokenEndpoint(giving({"token-1"}, size=size)) as endpoint, Submission(f"{endpoint.base}/introspect") as relay:
        client = OAuth2Settings(token_url=endpoint.url, grant="client_credentials", client_id="a", client_secret="b")
        courier = courier_to(relay.port, username="shop", auth=auth, oauth2=client, pipelining="transaction")
        assert [exchange.is_accepted for exchange in courier.carry(letters(2))] == [True, True]
        courier.close()


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
def test_dovecot_explains_why_it_refuses_a_token_and_takes_the_next(auth: str) -> None:
    with TokenEndpoint(giving({"token-4"})) as endpoint, Submission(f"{endpoint.base}/introspect") as relay:
        client = OAuth2Settings(token_url=endpoint.url, grant="client_credentials", client_id="a", client_secret="b")
        courier = Courier(settings(relay.port, username="shop", auth=auth, oauth2=client, reply_timeout=30.0))
        for _ in range(2):  # the first two tokens, then the third
            with pytest.raises(RelayTrouble, match=r"535 5.7.8 .*\(status (401|invalid_token)"):
                courier.open()
        courier.open()
        courier.close()
        assert courier.tokens is not None
        assert courier.tokens.counts == {"fetched": 4, "refused": 3}
