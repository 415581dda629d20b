"""Logins with tokens: where they come from, how long they are used, and what is said when there is none."""

from __future__ import annotations

import stat
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from servers.fault import Faults, FaultServer
from servers.refusals import AT_THE_ENDPOINT
from servers.tokens import Said, TokenEndpoint, jwt, refusal, said
from smtp.letters import courier_to, letters, settings

from poller.exchange import Phase, RelayTrouble
from poller.smtp.courier import Courier
from poller.smtp.settings import OAuth2Settings
from poller.smtp.tokens import RETRY_S, Tokens
from poller.smtp.wake import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers.certs import Authority, Certificate

SECRET, REFRESH = "the-client-secret", "the-refresh-token"
WELCOME, NOT_TAKEN = b"235 2.7.0 welcome\r\n", b"535 5.7.3 Authentication unsuccessful\r\n"


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def numbered(life: object = 3600, **more: Any) -> Callable[[dict[str, str]], Said]:
    """token-1, token-2, …"""
    count = iter(range(1, 1000))
    return lambda _: said({"access_token": f"token-{next(count)}", "expires_in": life, "token_type": "Bearer", **more})


def oauth2(endpoint: TokenEndpoint | None = None, **more: Any) -> OAuth2Settings:
    """A client that asks for itself."""
    defaults: dict[str, Any] = {
        "token_url": endpoint.url if endpoint else None,
        "grant": "client_credentials",
        "client_id": "poller",
        "client_secret": SECRET,
        "scope": "smtp",
        "timeout": 5.0,
    }
    return OAuth2Settings(**(defaults | more))


def trouble_with(tokens: Tokens) -> str:
    with pytest.raises(RelayTrouble) as caught:
        tokens.current()
    assert caught.value.phase is Phase.AUTH
    assert [secret for secret in (SECRET, REFRESH) if secret in caught.value.reason + repr(tokens)] == []
    return caught.value.reason


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint(numbered()) as endpoint:
        yield endpoint


# ---- the login


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
@pytest.mark.parametrize("length", [10, 3000])
def test_a_token_of_any_length_logs_in(auth: str, length: int) -> None:
    token = "t" * length
    seen: list[tuple[str, str]] = []

    def take(_: int, user: str, given: str) -> bytes:
        seen.append((user, given))
        return WELCOME

    faults = Faults(take_token=take, mechanisms=("PLAIN", "XOAUTH2", "OAUTHBEARER"))
    with TokenEndpoint(lambda _: said({"access_token": token})) as endpoint, FaultServer(faults) as relay:
        courier_to(relay.port, username="shop@a.test", auth=auth, oauth2=oauth2(endpoint)).close()
    assert seen == [("shop@a.test", token)]
    assert any(command.startswith(b"AUTH " + auth.upper().encode()) for command in relay.commands)
    assert (b"AUTH " + auth.upper().encode() in relay.commands) == (length > 512)


def test_a_token_never_goes_into_a_mechanism_for_passwords(endpoint: TokenEndpoint) -> None:
    with FaultServer(Faults(users={"u": "p"})) as relay:
        courier = Courier(settings(relay.port, username="u", oauth2=oauth2(endpoint)))
        with pytest.raises(RelayTrouble, match="offers only LOGIN PLAIN, not AUTH XOAUTH2 or OAUTHBEARER"):
            courier.open()
    assert [command for command in relay.commands if command.startswith(b"AUTH")] == []


def test_a_token_that_is_refused_once_is_fetched_anew_at_once(endpoint: TokenEndpoint) -> None:
    faults = Faults(
        take_token=lambda _, __, token: NOT_TAKEN if token == "token-1" else WELCOME, mechanisms=("XOAUTH2",)
    )
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port, username="u", oauth2=oauth2(endpoint))
        assert [exchange.is_accepted for exchange in courier.carry(letters(2))] == [True, True]
        assert courier.tokens is not None
        assert courier.tokens.counts == {"fetched": 2, "refused": 1}
        courier.close()


def test_tokens_that_are_refused_twice_are_the_relays_trouble_in_its_own_words_with_the_remedy(
    endpoint: TokenEndpoint,
) -> None:
    explained = b'{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}'
    faults = Faults(take_token=lambda *_: NOT_TAKEN, mechanisms=("XOAUTH2",), explain_refusal=explained)
    with FaultServer(faults) as relay:
        courier = Courier(settings(relay.port, username="u", oauth2=oauth2(endpoint)), table="relays.office")
        reasons = []
        for _ in range(3):
            with pytest.raises(RelayTrouble) as caught:
                courier.open()
            reasons.append(caught.value.reason)
        assert caught.value.reply is not None
        assert len(endpoint.asked) == 4  # anew at once the first time, then once for each look
        assert relay.sessions == 4
    assert len(set(reasons)) == 1
    assert "535 5.7.3 Authentication unsuccessful (status 401, scope https://mail.google.com/)" in reasons[0]
    assert "[relays.office] username must be the mailbox" in reasons[0]
    assert "token-" not in reasons[0]


def test_a_reply_that_says_not_now_blames_no_token(endpoint: TokenEndpoint) -> None:
    faults = Faults(take_token=lambda *_: b"454 4.7.0 Temporary authentication failure\r\n", mechanisms=("XOAUTH2",))
    with FaultServer(faults) as relay:
        courier = Courier(settings(relay.port, username="u", oauth2=oauth2(endpoint)))
        for _ in range(2):
            with pytest.raises(RelayTrouble, match="tried again: 454"):
                courier.open()
    assert len(endpoint.asked) == 1


def test_a_relay_that_repeats_the_token_gets_it_into_no_words() -> None:
    token = "a-token-that-nobody-may-see"
    faults = Faults(
        take_token=lambda _, __, given: b"535 no: %s\r\n" % given.encode(),
        mechanisms=("XOAUTH2",),
        explain_refusal=b'{"status": "400", "scope": "%s"}' % token.encode(),
    )
    with TokenEndpoint(lambda _: said({"access_token": token})) as endpoint, FaultServer(faults) as relay:
        courier = Courier(settings(relay.port, username="u", oauth2=oauth2(endpoint)))
        with pytest.raises(RelayTrouble) as caught:
            courier.open()
    assert "535 no: (hidden) (status 400, scope (hidden))" in caught.value.reason
    assert token not in caught.value.reason + str(caught.value.reply) + repr(courier.tokens)


def test_a_session_is_replaced_before_its_token_ends() -> None:
    clock = Clock()
    used: list[str] = []

    def take(_: int, __: str, token: str) -> bytes:
        used.append(token)
        return WELCOME

    with (
        TokenEndpoint(numbered(600)) as endpoint,
        FaultServer(Faults(take_token=take, mechanisms=("XOAUTH2",))) as relay,
    ):
        tokens = Tokens(oauth2(endpoint), clock=clock)
        patient = settings(relay.port, username="u", oauth2=oauth2(endpoint), max_connection_age=1e9)
        courier = Courier(patient, clock=clock, tokens=tokens)
        courier.open()
        for exchange in courier.carry(letters(4)):
            assert exchange.is_accepted
            clock.now += 499  # a sixth of 600 s is kept back
            clock.now += 2 * (exchange.message.row_id == 1)
        courier.close()
    assert used == ["token-1", "token-2", "token-3"]


# ---- how long a token is used


def test_one_token_serves_until_shortly_before_its_end(endpoint: TokenEndpoint) -> None:
    clock = Clock()
    tokens = Tokens(oauth2(endpoint), clock=clock)
    seen = []
    for now in (0, 3299, 3301, 6600, 6602):
        clock.now = 1000.0 + now
        seen.append(tokens.current().value)
    assert seen == ["token-1", "token-1", "token-2", "token-2", "token-3"]


def test_an_endpoint_that_is_away_is_not_noticed_while_the_token_lasts() -> None:
    clock = Clock()
    well = numbered()
    answers = iter([well({}), Said(status=500), Said(status=500), Said(status=500), well({})])
    with TokenEndpoint(lambda _: next(answers)) as endpoint:
        tokens = Tokens(oauth2(endpoint), clock=clock)
        first = tokens.current()
        clock.now += 3400
        assert tokens.current() is first
        assert tokens.usable_for(first) == RETRY_S  # and then the session is replaced, should there be another
        clock.now += RETRY_S - 1
        assert (tokens.current(), len(endpoint.asked)) == (first, 2)
        clock.now += 2
        assert (tokens.current(), len(endpoint.asked)) == (first, 3)
        clock.now += 200
        assert "500" in trouble_with(tokens)
        assert tokens.current().value == "token-2"


@pytest.mark.parametrize("life", [None, "3600", 3600.5, True, -1, 0, "soon", 1e300])
def test_a_life_that_makes_no_sense_harms_nobody(life: object) -> None:
    with TokenEndpoint(numbered(life)) as endpoint:
        tokens = Tokens(oauth2(endpoint), clock=Clock())
        if life in {-1, 0} and life is not False:
            assert "has ended already" in trouble_with(tokens)
        else:
            assert 0 < tokens.left(tokens.current()) <= 86400


def test_one_thread_asks_and_the_others_take_what_it_brought() -> None:
    gate = threading.Event()
    well = numbered()

    def answer(form: dict[str, str]) -> Said:
        gate.wait(5)
        return well(form)

    with TokenEndpoint(answer) as endpoint:
        tokens = Tokens(oauth2(endpoint))
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(tokens.current().value)) for _ in range(8)]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join(10)
        assert (found, len(endpoint.asked)) == (["token-1"] * 8, 1)


# ---- when there is none


@pytest.mark.parametrize("name", AT_THE_ENDPOINT)
def test_each_answer_without_a_token_has_its_words_and_its_remedy(name: str) -> None:
    answer, ours = AT_THE_ENDPOINT[name]
    answers = iter([answer])
    with TokenEndpoint(lambda form: next(answers, None) or numbered()(form)) as endpoint:
        clock = Clock()
        tokens = Tokens(oauth2(endpoint), clock=clock)
        reason = trouble_with(tokens)
        assert ours in reason
        assert "127.0.0.1" in reason
        assert not any(word in reason for word in ("Trace ID", "\n", "<h"))
        clock.now += 10
        assert tokens.current().value == "token-1"  # the service goes on
    assert tokens.counts == {"failed": 1, "fetched": 1}


@pytest.mark.parametrize("answer", [Said(silent=30), Said(body=b" " * 100, drip=0.2)])
def test_an_endpoint_that_is_slow_is_not_waited_for(answer: Said) -> None:
    with TokenEndpoint(lambda _: answer) as endpoint:
        assert "no answer within 500ms" in trouble_with(Tokens(oauth2(endpoint, timeout=0.5)))


def test_a_bell_ends_the_wait() -> None:
    bell = Bell()
    with TokenEndpoint(lambda _: Said(silent=30)) as endpoint:
        threading.Timer(0.1, bell.ring).start()
        with pytest.raises(RelayTrouble, match="the service is stopping"):
            Tokens(oauth2(endpoint, timeout=20.0)).current(bell)


@pytest.mark.parametrize("form", ["120", "date"])
def test_an_endpoint_that_asks_to_be_left_alone_is_not_asked_before(form: str) -> None:
    clock = Clock()
    skew = 600.0  # its clock is ten minutes ahead; a date is meant by it
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + skew + 121))
    answers = iter([Said(status=429, headers={"Retry-After": date if form == "date" else form})])
    with TokenEndpoint(lambda form: next(answers, None) or numbered()(form), skew=skew) as endpoint:
        tokens = Tokens(oauth2(endpoint), clock=clock)
        assert "asked too often" in trouble_with(tokens)
        clock.now += 100
        assert "left alone for another" in trouble_with(tokens)
        assert len(endpoint.asked) == 1
        clock.now += 30
        assert tokens.current().value == "token-1"


@pytest.mark.parametrize(("skew", "words"), [(600, "10m behind"), (-600, "10m ahead of")])
def test_a_clock_that_is_ten_minutes_off_is_told_and_costs_no_token(skew: float, words: str) -> None:
    answers = iter([refusal("invalid_client", "AADSTS700024: not within its valid time range.", 401)])
    with TokenEndpoint(lambda form: next(answers, None) or numbered()(form), skew=skew) as endpoint:
        tokens = Tokens(oauth2(endpoint))
        reason = trouble_with(tokens)
        assert f"this machine's clock is {words} the token endpoint's" in reason
        token = tokens.current()
        assert round(tokens.left(token) / 60) == 60
        assert words in tokens.hints(token)


def test_a_secret_that_the_endpoint_repeats_is_hidden(tmp_path: Path) -> None:
    file = tmp_path / "refresh"
    file.write_text(REFRESH)
    with TokenEndpoint(lambda form: refusal("invalid_grant", f"no: {form}")) as endpoint:
        reason = trouble_with(Tokens(oauth2(endpoint, grant="refresh_token", refresh_token_file=str(file))))
    assert "(hidden)" in reason


def test_a_microsoft_token_without_the_role_is_told(endpoint: TokenEndpoint) -> None:
    endpoint.answer = lambda _: said({"access_token": jwt(app_displayname="Mailer", tid="t-1", roles=["Mail.Send"])})
    tokens = Tokens(oauth2(endpoint, preset="microsoft365"))
    token = tokens.current()
    assert token.claims.whose == "the app Mailer, tenant t-1"
    assert tokens.hints(token).startswith("; the token does not have SMTP.SendAsApp (it has: Mail.Send)")


# ---- TLS


def test_the_endpoint_is_verified(authority: Authority, certificate: Certificate) -> None:
    with TokenEndpoint(numbered(), tls=certificate.server_context()) as endpoint:
        known = oauth2(endpoint, ca_file=str(authority.ca_file))
        assert Tokens(known).current().value == "token-1"
        assert "not trusted" in trouble_with(Tokens(oauth2(endpoint)))
        elsewhere = replace(known, token_url=endpoint.url.replace("localhost", "127.0.0.1"))
        assert "its certificate is for another name" in trouble_with(Tokens(elsewhere))
        assert len(endpoint.asked) == 1
    assert "[smtp.oauth2] ca_file /none" in trouble_with(Tokens(oauth2(endpoint, ca_file="/none")))


# ---- refresh tokens


def test_a_refresh_token_that_is_replaced_is_written_before_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "refresh"
    file.write_text(f"{REFRESH}\n")
    file.chmod(0o644)
    clock = Clock()
    count = iter(range(1, 100))

    def answer(_: dict[str, str]) -> Said:
        return said({"access_token": "t", "expires_in": 600, "refresh_token": f"refresh-{next(count)}"})

    with TokenEndpoint(answer) as endpoint:
        tokens = Tokens(oauth2(endpoint, grant="refresh_token", refresh_token_file=str(file)), clock=clock)
        for _ in range(3):
            tokens.current()
            clock.now += 700
    assert [form["refresh_token"] for form in endpoint.asked] == [REFRESH, "refresh-1", "refresh-2"]
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("refresh-3\n", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["refresh"]


def test_a_refresh_token_that_cannot_be_written_is_kept_in_memory_until_a_person_brings_another(tmp_path: Path) -> None:
    file = tmp_path / ("r" * 250)  # there is no room for the name of a file beside it
    file.write_text(REFRESH)
    clock = Clock()
    told: list[str] = []
    with TokenEndpoint(numbered(600, refresh_token="refresh-1")) as endpoint:
        settings = oauth2(endpoint, grant="refresh_token", refresh_token_file=str(file))
        tokens = Tokens(settings, clock=clock, events=lambda event, facts: told.append(f"{event} {facts}"))
        for brought in (None, None, "from-a-person"):
            if brought:
                file.write_text(brought)
            tokens.current()
            clock.now += 700
    assert [form["refresh_token"] for form in endpoint.asked] == [REFRESH, "refresh-1", "from-a-person"]
    assert "can't be written" in told[0]
    assert not any("refresh-1" in words for words in told)


@pytest.mark.parametrize("content", [None, "", "two words", "\xe9", "x" * 20_000])
def test_a_file_without_a_refresh_token_says_who_writes_one(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "refresh"
    if content is not None:
        file.write_text(content)
    settings = oauth2(None, token_url="http://127.0.0.1:9/", grant="refresh_token", refresh_token_file=str(file))
    assert "run: poller login" in trouble_with(Tokens(settings))


# ---- tokens of somebody else


def test_a_token_file_is_read_at_each_login(tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = Tokens(OAuth2Settings(token_file=str(file)))
    assert "token_file" in trouble_with(tokens)
    seen = []
    for text in ("one\n", "two\n"):
        file.write_text(text)
        seen.append(tokens.current().value)
        assert tokens.usable_for(tokens.current()) > 3600
    assert seen == ["one", "two"]


def test_a_token_of_somebody_else_ends_by_the_time_in_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(exp=1_000_000, upn="shop@a.test"))
    wall = Clock(1_000_000 - 600)
    tokens = Tokens(OAuth2Settings(token_file=str(file)), wall=wall)
    assert (round(tokens.left(tokens.current())), tokens.current().claims.user) == (600, "shop@a.test")
    wall.now += 1200  # or the clock is that much ahead
    reason = trouble_with(tokens)
    assert "ended 10m ago by this machine's clock" in reason


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/nowhere/token",), "No such file"),
        (("false",), "ended with status 1"),
        (("true",), "gives no token: nothing"),
        (("echo", "two words"), "one word"),
        (("sleep", "30"), "no answer within 500ms"),
    ],
)
def test_a_command_that_gives_no_token_says_why(argv: tuple[str, ...], words: str) -> None:
    assert words in trouble_with(Tokens(OAuth2Settings(token_command=argv, timeout=0.5)))


def test_a_command_gives_a_token() -> None:
    assert Tokens(OAuth2Settings(token_command=("echo", "a-token"))).current().value == "a-token"
