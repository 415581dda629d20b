"""What a person can do when a token is refused: one table for each side that refuses.

TOKEN_REFUSALS is for the token endpoint: what it says is `error: description` (RFC 6749 section 5.2). Microsoft Entra
puts a number into it, AADSTS7000215, which means one thing only; the bare words of the RFC come last.
LOGIN_REFUSALS is for the relay: its reply to AUTH, or to a message of an account that may not send it.

Rule 1. The first line that fits is the remedy; the more particular one stands first.
Rule 2. `[smtp]` stands for the relay's table; the one who raises the words puts in the right one.

The numbers are those of "Microsoft Entra authentication and authorization error codes", "Fix issues with printers,
scanners, and LOB applications that send email using Microsoft 365" and "Email non-delivery reports in Exchange Online"
on learn.microsoft.com; of Google's "OAuth 2.0 for Web Server Applications" (errors) and "Gmail SMTP errors and codes".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from poller.exchange import Reply

_CONSENT: Final = (
    "nobody has consented yet; an administrator grants the app SMTP.SendAsApp (API permissions, Grant admin consent), "
    "or a person agrees: poller login microsoft365"
)
_SCOPE: Final = (
    "the scope is not one that this tenant knows; leave [smtp.oauth2] scope out with preset microsoft365, or write "
    "https://outlook.office365.com/.default for client_credentials"
)
_REVOKED: Final = (
    "the refresh token was revoked or has run out (after 7 days, where the consent screen is still in testing; after 6 "
    "months without use; when the password changed)"
)
_MAILBOX: Final = (
    "Exchange can't open the mailbox: check that [smtp] username is a mailbox with a licence, and the app's FullAccess"
)
_CLOCK: Final = "this machine's clock may be wrong: compare it with the right time, and keep it right with NTP"
_LOG_IN_AGAIN: Final = "a person has to agree anew; run: poller login"
_RIGHT_VALUE: Final = (
    "write the secret's value, not its id, into [smtp.oauth2] client_secret, or make a new one (Entra admin centre, "
    "App registrations, Certificates & secrets)"
)
_SEND_AS: Final = (
    "give the account the right to send as this address (Exchange: Add-RecipientPermission -AccessRights SendAs), or "
    "write the account's own address as sender"
)
_MAILBOX_OFF: Final = (
    "SMTP AUTH is off for this mailbox; switch it on: Set-CASMailbox -SmtpClientAuthenticationDisabled $false"
)
_TENANT_OFF: Final = (
    "SMTP AUTH is off for the whole tenant; switch it on for this mailbox (Set-CASMailbox "
    "-SmtpClientAuthenticationDisabled $false), or for all (Set-TransportConfig)"
)
_POLICY: Final = (
    "a policy of the tenant keeps this login out: look at Conditional Access and security defaults, and at the sign-in "
    "log of the account (Entra admin centre)"
)
_WRONG_PERSON: Final = (
    "the token is valid for somebody else: [smtp] username must be the mailbox, the app needs the role SMTP.SendAsApp "
    "with admin consent (or the person's scope SMTP.Send), its service principal must be known to Exchange "
    "(New-ServicePrincipal with the object id of the enterprise application) and have FullAccess to the mailbox "
    "(Add-MailboxPermission)"
)
_WRONG_GMAIL: Final = (
    "the token must be for [smtp] username and the scope https://mail.google.com/; if both are right: poller login"
)


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


TOKEN_REFUSALS: Final = (
    # ---- Microsoft Entra, by number
    (_words(r"AADSTS7000215\b"), f"the client secret is wrong; {_RIGHT_VALUE}"),
    (_words(r"AADSTS7000222\b"), f"the client secret has run out; {_RIGHT_VALUE}"),
    (_words(r"AADSTS7000216\b|AADSTS7000218\b"), "the app wants a client secret; give [smtp.oauth2] client_secret"),
    (
        _words(r"AADSTS700016\b"),
        "the app is not in this tenant; check [smtp.oauth2] client_id (Application ID) and tenant (Directory ID)",
    ),
    (_words(r"AADSTS90002\b|AADSTS900023\b"), "there is no such tenant; check [smtp.oauth2] tenant (Directory ID)"),
    (_words(r"AADSTS700038\b"), "that is no app; check [smtp.oauth2] client_id (Application ID)"),
    (
        _words(r"AADSTS65001\b|AADSTS650051\b"),
        _CONSENT,
    ),
    (_words(r"AADSTS(700024|700027|500133|50013)\b"), f"the assertion is not valid in time or signature; {_CLOCK}"),
    (
        _words(r"AADSTS50034\b"),
        "there is no such account in this tenant; check [smtp.oauth2] tenant, and who logged in",
    ),
    (_words(r"AADSTS(50057)\b"), "the account is switched off; have an administrator switch it on"),
    (_words(r"AADSTS(50053)\b"), "the account is locked for a while after too many failures; look at its sign-in log"),
    (_words(r"AADSTS(700082|70008|700084)\b"), f"the refresh token has run out; {_LOG_IN_AGAIN} microsoft365"),
    (
        _words(r"AADSTS(50173|70000|70043|50076|50078|50079|50158)\b"),
        f"the refresh token holds no more (password, MFA or a policy has changed); {_LOG_IN_AGAIN} microsoft365",
    ),
    (_words(r"AADSTS(53000|53001|53003|530034|50105)\b"), _POLICY),
    (
        _words(r"AADSTS(70011|1002012|28002|28003|500011|650053|650057|9002313|9010010)\b"),
        _SCOPE,
    ),
    (
        _words(r"AADSTS7000112\b|AADSTS7000014\b"),
        "the app is switched off in this tenant (Enterprise applications, Properties)",
    ),
    (_words(r"AADSTS50196\b"), "the app asks too often in a loop; it is left alone for a while"),
    (
        _words(r"AADSTS90033\b|AADSTS90055\b|temporarily_unavailable"),
        "it has trouble of its own; it is asked again later",
    ),
    # ---- Google, by its words
    (_words(r"invalid_grant\b.*\binvalid_rapt|invalid_rapt"), f"a policy wants a new login; {_LOG_IN_AGAIN} google"),
    (_words(r"deleted_client"), "the client was deleted; make a new one (Google Cloud console, Credentials)"),
    (
        _words(r"org_internal|admin_policy_enforced"),
        "the organisation forbids this client; ask its Google administrator",
    ),
    (
        _words(r"invalid_grant\b.*(expired or revoked|bad request)"),
        f"{_REVOKED}; {_LOG_IN_AGAIN} google",
    ),
    # ---- RFC 6749 section 5.2
    (_words(r"^invalid_client\b"), "check [smtp.oauth2] client_id and client_secret"),
    (_words(r"^invalid_grant\b"), f"the refresh token is not taken, any more or for this client; {_LOG_IN_AGAIN}"),
    (
        _words(r"^unauthorized_client\b"),
        "the client may not ask in this way; check [smtp.oauth2] grant, and what the client is allowed at the provider",
    ),
    (_words(r"^invalid_scope\b"), "check [smtp.oauth2] scope"),
    (_words(r"^unsupported_grant_type\b"), "check [smtp.oauth2] grant and token_url"),
    (_words(r"^invalid_request\b"), "check [smtp.oauth2] token_url, grant, client_id and scope"),
    (_words(r"^(consent_required|interaction_required|access_denied)\b"), f"consent is missing; {_LOG_IN_AGAIN}"),
)
"""What is searched in `error: description`, and the remedy."""


class _LoginRefusal(NamedTuple):
    code: str
    """Beginning of code and enhanced status, "535 5.7.3"."""
    text: re.Pattern[str]
    remedy: str


_ANY = _words("")
LOGIN_REFUSALS: Final = (
    # ---- Exchange Online
    _LoginRefusal("535 5.7.139", _words(r"SmtpClientAuthentication is disabled for the Mailbox"), _MAILBOX_OFF),
    _LoginRefusal("535 5.7.139", _words(r"SmtpClientAuthentication is disabled for the Tenant"), _TENANT_OFF),
    _LoginRefusal("535 5.7.139", _words(r"basic authentication is"), "it takes tokens and no passwords"),
    _LoginRefusal("535 5.7.139", _words(r"user is locked"), "the account is locked by the tenant's policy; " + _POLICY),
    _LoginRefusal("535 5.7.139", _words(r"user credentials were incorrect"), _WRONG_PERSON),
    _LoginRefusal("535 5.7.139", _ANY, _POLICY),
    _LoginRefusal("535 5.7.3", _ANY, _WRONG_PERSON),
    _LoginRefusal("550 5.7.30", _ANY, "it takes tokens and no passwords"),
    _LoginRefusal("550 5.7.60", _ANY, _SEND_AS),
    _LoginRefusal("554 5.2.252", _ANY, _SEND_AS),
    _LoginRefusal("5", _words(r"SendAsDenied|permissions? to send as this sender"), _SEND_AS),
    _LoginRefusal("530 5.7.57", _ANY, "nobody is logged in on this line; check [smtp] username and [smtp.oauth2]"),
    _LoginRefusal("430 4.2.0", _ANY, _MAILBOX),
    _LoginRefusal("430 4.7.0", _ANY, "Exchange could not check the login for now; it is tried again"),
    _LoginRefusal("432 4.3.2", _ANY, "too many connections at once; set [smtp] max_connections = 3"),
    # ---- Google
    _LoginRefusal("535 5.7.8", _ANY, _WRONG_GMAIL),
    _LoginRefusal("534 5.7.9", _ANY, "Google wants the person to log in in a browser; run: poller login google"),
    _LoginRefusal("534 5.7.14", _ANY, "Google wants the person to log in in a browser; run: poller login google"),
    _LoginRefusal("535 5.7.1", _ANY, _WRONG_GMAIL),
    _LoginRefusal("538 5.7.11", _ANY, 'Google wants TLS first; set [smtp] security = "starttls"'),
    _LoginRefusal("530 5.7.0", _ANY, "check [smtp] username and [smtp.oauth2]"),
    _LoginRefusal(
        "454 4.7.0", _ANY, "the login could not be checked for now, or there were too many; it is tried again"
    ),
    _LoginRefusal("421 4.7.0", _ANY, "it wants to be left alone for a while; it is tried again"),
    # ---- RFC 4954 section 6
    _LoginRefusal("454", _ANY, "the login could not be checked for now; it is tried again"),
    _LoginRefusal("4", _ANY, "it is tried again"),
)
_OTHERWISE: Final = "check [smtp] username, and that [smtp.oauth2] gets tokens for this relay"


def after_token_refusal(words: str) -> str:
    """What to do about what a token endpoint says; "" when nothing is known."""
    return next((remedy for pattern, remedy in TOKEN_REFUSALS if pattern.search(words)), "")


def after_login_refusal(reply: Reply) -> str:
    """What to do about a relay's reply to a login with a token."""
    return _known(reply) or _OTHERWISE


def after_sender_refusal(reply: Reply) -> str:
    """What to do where an account may not use a sender; "" for any other reply."""
    remedy = _known(reply)
    return remedy if remedy == _SEND_AS else ""


def _known(reply: Reply) -> str:
    """The remedy of a line of LOGIN_REFUSALS; "" when none fits."""
    code = f"{reply.code} {reply.status}".strip()
    return next((line.remedy for line in LOGIN_REFUSALS if _is(code, line.code) and line.text.search(reply.text)), "")


def _is(code: str, beginning: str) -> bool:
    return code == beginning or (" " not in beginning and code.startswith(beginning))
