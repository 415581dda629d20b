"""Pure: the replies that are known, each line with where it is known from.

Rule 1. The more particular line stands first. What is said of *our* account, login or address is about the relay; of a
        mailbox, about the recipient; the rest is about the destination.
Rule 2. A wait is what the provider names; else what `kumomta` uses for the same reply; else short, since it doubles by
        itself while nothing is accepted.
Rule 3. A provider is given only where the words alone are ambiguous.

No line refuses: a provider that means never says 5xx, and that follows its class. The expressions are written for this
table from the replies that the sources show.
"""

from __future__ import annotations

from poller.judgement.advice.patterns import About, Action, Category, PhaseName, ReplyPattern

_M, _H = 60.0, 3600.0

_GOOGLE = "https://support.google.com/a/answer/3726730"
_MICROSOFT = (
    "https://learn.microsoft.com/troubleshoot/exchange/email-delivery/ndr/non-delivery-reports-in-exchange-online"
)
_OUTLOOK = "https://sendersupport.olc.protection.outlook.com/pm/troubleshooting.aspx"
_YAHOO = "https://senders.yahooinc.com/smtp-error-codes/"
_APPLE = "https://smtp.codes/icloud"
_COMCAST = "https://spa.xfinity.com/help/postmaster?faq=comcast-mail-errors"
_GMX = "https://postmaster.gmx.net/en/error-messages"
_ORANGE = "https://www.postmastery.com/orange-postmaster-smtp-error-codes-ofr/"
_SES = "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html"
_SENDGRID = "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
_KUMO = "kumomta assets/policy-extras/shaping.toml"
_KUMO_COMMUNITY = "kumomta assets/community/shaping.toml"
_ZONE = "zone-mta config/bounces.txt"
_SISIMAI = "sisimai lib/Sisimai/Reason/RateLimited.pm"
_SET_OF_EMAILS = "sisimai set-of-emails"
_POSTFIX = "postfix src/smtpd/smtpd.c, anvil(8)"


def _line(
    action: Action,
    about: About,
    category: Category,
    reason: str,
    source: str,
    *,
    text: str | None = None,
    codes: tuple[int, ...] = (),
    status: str | None = None,
    wait: float | None = None,
    provider: str | None = None,
    phases: tuple[PhaseName, ...] = (),
) -> ReplyPattern:
    return ReplyPattern(
        action=action,
        about=about,
        category=category,
        reason=reason,
        source=source,
        text=text,
        codes=codes,
        status=status,
        wait=wait,
        provider=provider,
        phases=phases,
    )


_GREYLISTS = (
    # Postgrey, milter-greylist, rspamd, SQLgrey, Exim recipes: all say the word, and most the time.
    _line("defer", "recipient", "greylist", "greylists first mail", "RFC 6647; postgrey(8), --delay=300",
          text=r"\bgr[ea]y-?list", codes=(4,), wait=5 * _M),
    _line("defer", "recipient", "greylist", "greylists first mail", "plesk.com/?p=214013",
          text=r"^service unavailable - try again later", codes=(451,), status=r"4\.7\.1", wait=5 * _M),
)  # fmt: skip

_ABOUT_GOOGLE = (
    _line("slow_down", "destination", "rate", "sees an unusual rate of our mail", _GOOGLE,
          text=r"\bunusual rate of\b", codes=(42, 45), wait=10 * _M),
    _line("slow_down", "destination", "rate", "limits our rate", "Gmail 421 4.7.28, 4.7.29 ff.; " + _GOOGLE,
          text=r"\brate limited\b", codes=(4,), status=r"4\.7\.\d+", provider="google", wait=10 * _M),
    _line("defer", "recipient", "rate", "takes no more for this mailbox now", _GOOGLE,
          text=r"\breceiving e?mail (too quickly|at a rate)", codes=(45, 55), wait=10 * _M),
    _line("slow_down", "relay", "rate", "has reached our peak", _GOOGLE,
          text=r"\bpeak smtp relay limit", codes=(4,), wait=5 * _M),
    # 550 5.4.5, 550 5.7.1, 421 4.7.0: a rolling day, so that some of it is free again soon.
    _line("pause", "relay", "quota", "has no more of our daily quota", _GOOGLE,
          text=r"\bdaily (user )?(sending|smtp relay) (limit|quota)|\breached a (gmail )?limit for sending",
          wait=_H),
    _line("slow_down", "relay", "rate", "closes on us", _GOOGLE,
          text=r"\btry again later, closing connection", codes=(421,), status=r"4\.7\.0", wait=5 * _M),
)  # fmt: skip

_ABOUT_MICROSOFT = (
    _line("slow_down", "destination", "rate", "has reached its limit for our address", _OUTLOOK,
          text=r"\bRP-00[1-3]\b", codes=(421,), wait=10 * _M),
    _line("slow_down", "destination", "reputation", "limits our address for its reputation", _OUTLOOK + "; " + _KUMO,
          text=r"\btemporarily rate limited due to ip reputation", wait=30 * _M),
    _line("pause", "destination", "block", "has our network on its block list", _OUTLOOK + "; " + _ZONE,
          text=r"\bon our block list\b|\bS31[45]0\b|\b(SC|OU)-00[12]\b", codes=(5,), wait=4 * _H),
    _line("defer", "recipient", "rate", "takes no more for this mailbox within the hour", _MICROSOFT,
          status=r"5\.2\.12[12]", wait=_H),
    _line("defer", "recipient", "capacity", "has the mailbox busy", _MICROSOFT,
          text=r"\brecipient thread limit", codes=(432,), wait=_M),
    _line("slow_down", "relay", "rate", "limits our connections", _MICROSOFT,
          text=r"\bconcurrent (server )?(connections|submission)", codes=(432, 421), status=r"4\.3\.2", wait=_M),
    _line("pause", "relay", "quota", "has no more of our daily quota", _MICROSOFT,
          status=r"5\.1\.90|5\.7\.23[23]", wait=_H),
    _line("pause", "relay", "quota", "has no more of our quota", _MICROSOFT,
          text=r"\bsubmission ?quota ?exceeded", wait=_H),
    _line("pause", "relay", "block", "has stopped our tenant or range", _MICROSOFT,
          status=r"5\.7\.(508|70[58]|750)", wait=4 * _H),
    _line("slow_down", "destination", "rate", "is busy, for us", "support.smartfense.com 14217721708443; " + _KUMO,
          text=r"\bserver busy\b", codes=(451,), status=r"4\.7\.\d{3}", wait=10 * _M),
    _line("slow_down", "destination", "rate", "limits our address", _MICROSOFT,
          codes=(4,), status=r"4\.7\.(5\d\d|6\d\d|8[5-9]\d)", wait=10 * _M),
)  # fmt: skip

_ABOUT_YAHOO = (
    _line("slow_down", "destination", "reputation", "defers our address for four hours", _KUMO_COMMUNITY,
          text=r"\[(TSS|IPTS)05\]", codes=(421,), wait=4 * _H),
    _line("slow_down", "destination", "reputation", "defers our address for complaints", _YAHOO + "; " + _KUMO,
          text=r"\[(TSS?|IPTS)0[14]\]", wait=2 * _H),
    _line("slow_down", "destination", "reputation", "does not want our mail at present",
          "https://help.yahoo.com/kb/SLN3436.html",
          text=r"\[TSS?03\]|\bpermanently deferred\b", codes=(4,), wait=4 * _H),
    _line("slow_down", "destination", "rate", "sees unusual traffic from us", _YAHOO + "; " + _KUMO_COMMUNITY,
          text=r"\[TSS?0\d\]|\bunexpected volume or user complaints", codes=(4,), wait=30 * _M),
    _line("pause", "destination", "block", "has our address on a block list", _ZONE,
          text=r"\[(BL\d+|TSS07|TSS09|TSS11)\]", codes=(553,), wait=4 * _H),
    _line("slow_down", "destination", "capacity", "is short of resources", _YAHOO,
          text=r"\bresources temporarily (not |un)available", codes=(451,), wait=10 * _M),
    _line("slow_down", "destination", "rate", "defers our address", _KUMO_COMMUNITY,
          text=r"\bVS98-IP0 deferred", wait=_H),
    _line("slow_down", "destination", "rate", "limits our address", "AOL; " + _ZONE,
          text=r"\bDYN:T\d|\bRLY:B[12]\b", wait=30 * _M),
    _line("pause", "destination", "block", "blocks our address", "AOL; " + _ZONE,
          text=r"\b(RTR|RLY):(SC|BL)\b|\bCON:B1\b", wait=4 * _H),
    _line("slow_down", "destination", "reputation", "defers our address", _KUMO,
          text=r"\bmessages from \S+ temporarily deferred", codes=(4,), wait=90 * _M),
)  # fmt: skip

_ABOUT_OTHERS = (
    _line("defer", "recipient", "rate", "takes no more for this mailbox now", _APPLE,
          text=r"\bdeferred due to excessive volume", codes=(4,), wait=30 * _M),
    _line("slow_down", "destination", "capacity", "takes nothing for now", _APPLE,
          text=r"\bservice unavailable - try again later", codes=(451,), provider="apple", wait=10 * _M),
    _line("pause", "destination", "rate", "throttles our domain", _KUMO,
          text=r"\bRL000010\b", wait=5 * _M),
    _line("slow_down", "destination", "rate", "throttles our address", _COMCAST + "; " + _KUMO,
          text=r"\bRL00\d{4}\b|^\S+ throttled\b|\bthrottled - ", wait=10 * _M),
    _line("slow_down", "destination", "rate", "takes no more sessions from us", _COMCAST + "; " + _SISIMAI,
          text=r"\btoo many sessions\b", codes=(4,), wait=5 * _M),
    # "Try again in a few hours and reduce the sending rate."
    _line("slow_down", "destination", "rate", "has had too much from us", _GMX + "; new-faq.comservice-ffo.de",
          text=r"\btoo many messages have been received|\brate limit reached\b", codes=(4,), wait=3 * _H),
    _line("slow_down", "destination", "reputation", "does not want our mail at present", _GMX,
          text=r"\breject due to policy (violation|restriction)s?", codes=(4,), wait=3 * _H),
    _line("pause", "destination", "block", "has our address on a block list", _GMX,
          text=r"\bip address is (block|black) ?listed", codes=(554,), wait=4 * _H),
    _line("slow_down", "destination", "rate", "has too many connections", _ORANGE + "; " + _SISIMAI,
          text=r"\bOFR00[45]_104\b|\btrop de connexions\b", codes=(4,), wait=5 * _M),
    _line("slow_down", "destination", "rate", "takes nothing for now", _ORANGE,
          text=r"\bOFR_999\b|\bveuillez essayer plus tard", codes=(421, 550), wait=_H),
    _line("slow_down", "destination", "rate", "has had too many errors or spams from us", "Free.fr; " + _SISIMAI,
          text=r"\btoo many (errors|spams) from your ip\b", wait=_H),
    _line("slow_down", "destination", "rate", "limits our frequency", "https://service.mail.qq.com/detail/122/172",
          text=r"\b(ip|domain|sender|connection) frequency limited", wait=_H),
    # Somebody else's words, and who says them has no page.
    _line("slow_down", "destination", "rate", "asks us to be slower", _SISIMAI,
          text=r"\btry again slower\b|\bslow(er)? down\b", codes=(4,), wait=5 * _M),
)  # fmt: skip

_ABOUT_RELAYS = (
    _line("slow_down", "relay", "rate", "takes no more a second from our account", _SES,
          text=r"\bmaximum sending rate exceeded", codes=(454,), wait=10.0),
    _line("pause", "relay", "quota", "has no more of our daily quota", _SES,
          text=r"\bdaily message quota exceeded|\b24-hour sending limit|\bdaily (message|sending) (limit|quota)",
          wait=_H),
    _line("slow_down", "relay", "rate", "throttles our account", _SES,
          text=r"\bthrottling failure", codes=(454,), wait=_M),
    _line("pause", "relay", "quota", "has no more credits for us", _SENDGRID,
          text=r"\bmaximum credits exceeded", wait=_H),
    _line("slow_down", "relay", "rate", "has had too frequent connections from us", _SENDGRID,
          text=r"\btoo frequent connects? from\b", codes=(4,), wait=5 * _M),
    # It names the seconds until it goes on.
    _line("pause", "relay", "quota", "has our account on probation",
          "Mailgun; github pivorakmeetup/pivorak-web-app#557",
          text=r"\baccount is on probation\b|\bdomains are limited to \d+ messages", wait=15 * _M),
    _line("pause", "relay", "quota", "has no more of our hourly quota", "Mailgun; github mailgun/mailgun-java#50",
          text=r"\bnot allowed to send: (recipient|message) limit exceeded", wait=15 * _M),
    _line("pause", "relay", "quota", "has no more of our hourly quota", "cPanel; " + _SISIMAI,
          text=r"\bexceeded the max(imum)? (emails|defers)( and failures)? per hour", wait=15 * _M),
    # anvil(8) counts by the minute.
    _line("slow_down", "relay", "rate", "has had too much from our address", _POSTFIX,
          text=r"\berror: too (much mail|many (recipients|connections|new TLS sessions|AUTH commands)) from\b",
          codes=(42, 45), wait=_M),
    _line("slow_down", "relay", "capacity", "has had too many errors from us", _POSTFIX,
          text=r"\berror: too many errors", codes=(421,), wait=5 * _M),
    _line("slow_down", "relay", "rate", "has had too many connections from us",
          "sendmail cf/README, ratecontrol, conncontrol",
          text=r"\bconnection rate limit exceeded|\btoo many open connections", codes=(4,), wait=_M),
    _line("slow_down", "relay", "rate", "has had too much from us", "Exim specification, ratelimit in ACLs",
          text=r"\bsender rate overlimit|\brate overlimit\b", wait=5 * _M),
    _line("slow_down", "relay", "rate", "has too many connections", "Exim src/daemon.c",
          text=r"\btoo many concurrent smtp connections", codes=(421,), wait=_M),
)  # fmt: skip

# Lists of domains and of URLs are about the content, and some lists are the recipient's own.
_NOT_OUR_HOST = (
    r"^(?!.*(\buribl|\bsurbl|\bdbl\b|/query/domain/|\bby (the |this )?(recipient|user)|customer block list))"
)
_LISTS = (
    r"(\bdns ?-?bls?\b|\brbls?\b|\b[xps]bl\b|spamhaus|spamcop|\bsorbs\b|barracuda|uceprotect|abuseat|senderscore"
    r"|invaluement|hostkarma|cloudmark|junkemailfilter|mimecast\.org|dnsbl-lookup|ipcheck\.proofpoint|\bdrbl\b"
    r"|real-?time block ?list|\b(block|black)[- ]?list(s|ed|ing)?\b|blacklistis)"
)
_BLOCK_LISTS = (
    # At the end of data words like these may be about what the message contains.
    _line("pause", "destination", "block", "has our address on a block list", _ZONE + "; " + _SET_OF_EMAILS,
          text=_NOT_OUR_HOST + ".*" + _LISTS, phases=("connect", "greeting", "ehlo", "mail", "rcpt", "data"),
          wait=4 * _H),
    _line("pause", "destination", "block", "has our address on a block list", _ZONE + "; " + _SET_OF_EMAILS,
          text=_NOT_OUR_HOST + r".*\b(host|ip|ips|client|server|connections?|(\d+\.){3}\d+)\b.{0,80}" + _LISTS,
          wait=4 * _H),
    _line("pause", "destination", "reputation", "does not take mail from our address for its reputation",
          "Mimecast, Cisco, GoDaddy; " + _ZONE,
          text=r"\b(poor|bad|low) (\w+ )?reputation\b|\breputation - \(reject\)", codes=(5,), wait=4 * _H),
    _line("pause", "destination", "block", "blocks our address",
          "T-Online, AT&T, Proofpoint, Cisco, Apple, Mimecast, Google; " + _ZONE + "; " + _SET_OF_EMAILS,
          text=_NOT_OUR_HOST + r".*(\bclient (host )?\S+ blocked (using|by)\b"
               r"|^IP[=:]\S+ - a problem occurred|\bis_blocked\b|\bblocked - see http|\bbad ip\b"
               r"|\bhost network not allowed|\besmtp not accepting connections|\bnot allowed to connect\b"
               r"|\b(your|the|this|sending|source|sender) ip( address)?\b.{0,60}"
               r"\b(block|bann|refus|reject|deni|list)ed\b"
               r"|\badresse ip source bloqu"
               r"|\baccess to (this|submit messages to this) (e-?)?mail system has been rejected"
               r"|\bno access from mail server|\bnot authorized to send e?mail directly)", codes=(5,), wait=4 * _H),
    _line("pause", "destination", "block", "wants a name for our address (reverse DNS)",
          "GMX, Gmail, mail.ru; " + _SET_OF_EMAILS,
          text=r"\b(fix|bad|no|missing|invalid) (reverse dns|dns ptr|ptr)\b|\bguidelines regarding ptr records",
          codes=(5,), wait=4 * _H),
    _line("slow_down", "destination", "rate", "has had too much from our address", "GoDaddy IB504, IB607",
          text=r"\bsent (too many messages|to too many recipients|too many to too many recipients) this hour", wait=_H),
)  # fmt: skip

_IN_GENERAL = (
    _line("slow_down", "destination", "rate", "limits our rate", _SISIMAI + "; " + _ZONE,
          text=r"\brate[- ]?limit(ed|ing|s)?\b|\bthrottl(ed|ing|e)\b|\b(sending|sent|send) too (fast|quickly)\b"
               r"|\btoo many (messages|e?mails|connections)\b",
          codes=(4,)),
    # A 5xx only if it says both what is too much and that it will pass.
    _line("slow_down", "destination", "rate", "limits our rate", "client.cloud4u.com 1041; " + _ZONE,
          text=r"\b(rate[- ]?limit|too many (messages|e?mails|connections)|throttl(ed|ing))\b.*\b(try|wait|later)\b",
          codes=(5,)),
)  # fmt: skip

SHIPPED: tuple[ReplyPattern, ...] = (
    *_ABOUT_GOOGLE,
    *_ABOUT_MICROSOFT,
    *_ABOUT_YAHOO,
    *_ABOUT_OTHERS,
    *_ABOUT_RELAYS,
    *_GREYLISTS,
    *_BLOCK_LISTS,
    *_IN_GENERAL,
)
"""In the order in which they are tried."""
