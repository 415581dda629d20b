"""What Microsoft and Google document that they say when they give no token, or take none; and what we say to it.

Each has the answer as it comes, and words that must be in ours.
"""

from __future__ import annotations

from typing import NamedTuple

from servers.tokens import Said, refusal

_TRACE = " Trace ID: 0a0b Correlation ID: 0c0d Timestamp: 2026-11-28 10:00:00Z"


class NoTokenGiven(NamedTuple):
    """By the token endpoint."""

    answer: Said
    ours: str


class NotTaken(NamedTuple):
    """By the relay, in answer to AUTH."""

    reply: bytes
    ours: str


def _entra(number: int, error: str, words: str, status: int = 400) -> Said:
    return refusal(error, f"AADSTS{number}: {words}{_TRACE}", status)


AT_THE_ENDPOINT = {
    "Entra 7000215, wrong secret": NoTokenGiven(
        _entra(
            7000215, "invalid_client", "Invalid client secret provided. Ensure the secret being sent is the value.", 401
        ),
        "the client secret is wrong",
    ),
    "Entra 7000222, secret ended": NoTokenGiven(
        _entra(7000222, "invalid_client", "The provided client secret keys for app 'x' are expired.", 401),
        "the client secret has run out",
    ),
    "Entra 7000218, no secret": NoTokenGiven(
        _entra(7000218, "invalid_client", "The request body must contain: 'client_assertion' or 'client_secret'.", 401),
        "wants a client secret",
    ),
    "Entra 700016, wrong app or tenant": NoTokenGiven(
        _entra(700016, "unauthorized_client", "Application with identifier 'x' was not found in the directory 'Shop'."),
        "check [smtp.oauth2] client_id",
    ),
    "Entra 90002, wrong tenant": NoTokenGiven(
        _entra(90002, "invalid_request", "Tenant 'shop' not found."), "there is no such tenant"
    ),
    "Entra 900023, no tenant": NoTokenGiven(
        _entra(900023, "invalid_request", "Specified tenant identifier 'x' is neither a valid DNS name."),
        "no such tenant",
    ),
    "Entra 65001, no consent": NoTokenGiven(
        _entra(65001, "invalid_grant", "The user or administrator has not consented to use the application."),
        "nobody has consented",
    ),
    "Entra 700027, assertion": NoTokenGiven(
        _entra(700027, "invalid_client", "Client assertion failed signature validation.", 401), "clock may be wrong"
    ),
    "Entra 700024, time": NoTokenGiven(
        _entra(700024, "invalid_client", "Client assertion is not within its valid time range.", 401),
        "clock may be wrong",
    ),
    "Entra 50034, no such account": NoTokenGiven(
        _entra(50034, "invalid_grant", "The user account does not exist in the directory."), "no such account"
    ),
    "Entra 50057, account off": NoTokenGiven(
        _entra(50057, "invalid_grant", "The user account is disabled."), "the account is switched off"
    ),
    "Entra 50053, account locked": NoTokenGiven(
        _entra(50053, "invalid_grant", "The account is locked."), "the account is locked"
    ),
    "Entra 70008, refresh token ended": NoTokenGiven(
        _entra(70008, "invalid_grant", "The provided authorization code or refresh token has expired."),
        "poller login microsoft365",
    ),
    "Entra 700082, refresh token ended": NoTokenGiven(
        _entra(700082, "invalid_grant", "The refresh token has expired due to inactivity."), "poller login microsoft365"
    ),
    "Entra 50173, password changed": NoTokenGiven(
        _entra(50173, "invalid_grant", "The provided grant has expired due to it being revoked."),
        "poller login microsoft365",
    ),
    "Entra 50076, MFA": NoTokenGiven(
        _entra(50076, "interaction_required", "You must use multi-factor authentication."),
        "MFA or a policy has changed",
    ),
    "Entra 53003, Conditional Access": NoTokenGiven(
        _entra(53003, "access_denied", "Access has been blocked by Conditional Access policies."), "Conditional Access"
    ),
    "Entra 70011, scope": NoTokenGiven(
        _entra(70011, "invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
        "the scope is not one",
    ),
    "Entra 7000112, app off": NoTokenGiven(
        _entra(7000112, "unauthorized_client", "Application is disabled."), "the app is switched off"
    ),
    "Entra 90033, its own trouble": NoTokenGiven(
        _entra(90033, "temporarily_unavailable", "A transient error has occurred.", 503), "trouble of its own"
    ),
    "Google, revoked": NoTokenGiven(
        refusal("invalid_grant", "Token has been expired or revoked."), "poller login google"
    ),
    "Google, no refresh token of this client": NoTokenGiven(
        refusal("invalid_grant", "Bad Request"), "poller login google"
    ),
    "Google, a policy": NoTokenGiven(
        refusal("invalid_grant", "reauth related error (invalid_rapt)"), "a policy wants a new login"
    ),
    "Google, no such client": NoTokenGiven(
        refusal("invalid_client", "The OAuth client was not found.", 401), "check [smtp.oauth2] client_id"
    ),
    "Google, client deleted": NoTokenGiven(
        refusal("deleted_client", "The OAuth client was deleted.", 401), "the client was deleted"
    ),
    "Google, unauthorized": NoTokenGiven(
        refusal("unauthorized_client", "Unauthorized", 401), "may not ask in this way"
    ),
    "Google, admin": NoTokenGiven(refusal("admin_policy_enforced", "", 400), "Google administrator"),
    "RFC 6749, scope": NoTokenGiven(refusal("invalid_scope"), "check [smtp.oauth2] scope"),
    "RFC 6749, grant": NoTokenGiven(refusal("unsupported_grant_type"), "check [smtp.oauth2] grant"),
    "400 without words": NoTokenGiven(Said(status=400), "check [smtp.oauth2] token_url"),
    "401 without words": NoTokenGiven(Said(status=401), "check [smtp.oauth2] client_id and client_secret"),
    "404": NoTokenGiven(Said(status=404, body=b"<h1>no</h1>", kind="text/html"), "check [smtp.oauth2] token_url"),
    "429": NoTokenGiven(Said(status=429, headers={"Retry-After": "1"}), "asked too often"),
    "500": NoTokenGiven(Said(status=500, body=b"<h1>oops</h1>", kind="text/html"), "trouble of its own"),
    "a redirect": NoTokenGiven(
        Said(status=302, headers={"Location": "http://127.0.0.1:9/"}), "check [smtp.oauth2] token_url"
    ),
    "HTML": NoTokenGiven(Said(body=b"<html>log in here</html>", kind="text/html"), "no answer of a token endpoint"),
    "nothing": NoTokenGiven(Said(), "no answer of a token endpoint"),
    "JSON of something else": NoTokenGiven(Said(body=b'{"hello": 1}'), "no access_token"),
    "a list": NoTokenGiven(Said(body=b"[1, 2]"), "no answer of a token endpoint"),
    "a token that would be a command": NoTokenGiven(
        Said(body=b'{"access_token": "a\\r\\nQUIT"}'), "access_token that is none"
    ),
    "an endless answer": NoTokenGiven(Said(body=b"x" * 70_000), "more than 64 KB"),
    "a line that is cut": NoTokenGiven(Said(hang_up=True), "closed the connection without an answer"),
}

AT_THE_RELAY = {
    "Exchange, SMTP AUTH off for the mailbox": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox. Visit "
        b"https://aka.ms/smtp_auth_disabled for more information. [AM0PR01CA0001.eurprd01.prod.exchangelabs.com]\r\n",
        "SMTP AUTH is off for this mailbox",
    ),
    "Exchange, SMTP AUTH off for the tenant": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit "
        b"https://aka.ms/smtp_auth_disabled for more information.\r\n",
        "off for the whole tenant",
    ),
    "Exchange, security defaults": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.\r\n",
        "security defaults",
    ),
    "Exchange, Conditional Access": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated "
        b"successfully. Contact your administrator.\r\n",
        "Conditional Access",
    ),
    "Exchange, credentials": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.\r\n", "SMTP.SendAsApp"
    ),
    "Exchange, basic authentication": NotTaken(
        b"535 5.7.139 Authentication unsuccessful, basic authentication is disabled.\r\n", "tokens and no passwords"
    ),
    "Exchange, token for somebody else": NotTaken(
        b"535 5.7.3 Authentication unsuccessful [FR3P281CA0094.DEUP281.PROD.OUTLOOK.COM]\r\n", "New-ServicePrincipal"
    ),
    "Exchange, no passwords": NotTaken(
        b"550 5.7.30 Basic authentication is not supported for Client Submission.\r\n", "tokens and no passwords"
    ),
    "Exchange, mailbox": NotTaken(
        b"430 4.2.0 STOREDRV; mailbox logon failure; logon failure\r\n", "[smtp] username is a mailbox with a licence"
    ),
    "Exchange, not now": NotTaken(b"430 4.7.0 Temporary server error. Please try again later\r\n", "tried again"),
    "Exchange, connections": NotTaken(
        b"432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending\r\n",
        "max_connections",
    ),
    "Exchange, throttled": NotTaken(b"454 4.7.0 Temporary authentication failure\r\n", "tried again"),
    "Google, not accepted": NotTaken(
        b"535-5.7.8 Username and Password not accepted. For more information, go to\r\n"
        b"535 5.7.8  https://support.google.com/mail/?p=BadCredentials x-20020a - gsmtp\r\n",
        "https://mail.google.com/",
    ),
    "Google, browser": NotTaken(
        b"534-5.7.14 <https://accounts.google.com/signin/continue?sarp=1> Please log in via your\r\n"
        b"534 5.7.14 web browser and then try again. x-20020a - gsmtp\r\n",
        "poller login google",
    ),
    "Google, application-specific": NotTaken(
        b"534-5.7.9 Please log in with your web browser and then try again.\r\n534 5.7.9 x-20020a - gsmtp\r\n",
        "poller login google",
    ),
    "Google, wants a login": NotTaken(
        b"530-5.7.0 Authentication Required. For more information, go to\r\n530 5.7.0 x-20020a - gsmtp\r\n",
        "check [smtp] username",
    ),
    "Google, not now": NotTaken(
        b"454 4.7.0 Cannot authenticate due to temporary system problem. Try again later. - gsmtp\r\n", "tried again"
    ),
    "Google, too many logins": NotTaken(
        b"454 4.7.0 Too many login attempts, please try again later. x-20020a - gsmtp\r\n", "tried again"
    ),
    "Google, alone": NotTaken(b"421 4.7.0 Try again later, closing connection. - gsmtp\r\n", "left alone"),
}
