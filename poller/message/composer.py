"""A row becomes a message: the order of things.

Rule 1. Composing is a pure function of the draft, the settings and the template files. The same ones give the same
        bytes: after a crash the very same message is made again.
Rule 2. What is wrong with a row is found here and raised as `Unsendable`, with the column to change and the remedy.
Rule 3. `bcc` is read, and never written.
Rule 4. Every line ends in CRLF, none is longer than 998 octets, every byte is seven-bit; but for an address whose local
        part is not ASCII, which makes the message `smtputf8` (RFC 6532). Domains are written in ASCII always. A raw
        message goes out as it came (`poller.message.whole`).
Rule 5. What is signed is what goes out: nothing is changed behind the signature.

It does not stuff dots, and does not judge whether an address exists.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from poller.frozen import Unreadable
from poller.message import characters, fields, parts
from poller.message.delivery_status import wire_parameters
from poller.message.draft import Composed, Draft, Recipient, TooLarge, Unsendable
from poller.message.headers import extra_fields
from poller.message.inlining import inliner, trouble
from poller.message.mailing_list import MailingLists
from poller.message.message_id import valid_message_id
from poller.message.missing import missing_variables
from poller.message.reading import address_list, one_address, read_lists, require_message_id
from poller.message.return_path import ReturnPaths
from poller.message.signing import Signing
from poller.message.staging import Staging
from poller.message.templates import Rendered, Templates
from poller.message.text import text_from_html
from poller.message.whole import LEFT_OUT, taken_apart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from poller.message.addresses import Mailbox
    from poller.message.draft import Attachment
    from poller.message.mailing_list import Leave
    from poller.message.parts import Part
    from poller.message.reading import Lists
    from poller.message.settings import DkimSettings, MessageSettings, TemplateSettings
    from poller.message.whole import Whole

_LISTS = ("recipients", "cc", "bcc")
_NO_TEXT = {"id", "date", "attachments", "rendered", "raw", "dsn"}
_COLUMNS = tuple(name for name in Draft.__dataclass_fields__ if name not in _NO_TEXT)


class Composer:
    """Makes messages; one for a worker's life. `host_name` stands in Message-IDs when nothing better is configured."""

    def __init__(
        self,
        message: MessageSettings,
        templates: TemplateSettings,
        dkim: Mapping[str, DkimSettings] | None = None,
        *,
        mailing_lists: MailingLists | None = None,
        return_paths: ReturnPaths | None = None,
        host_name: str = "localhost",
    ) -> None:
        self._settings = message
        self.signing = Signing(dkim or {})
        self._mailing_lists = mailing_lists or MailingLists()
        self._return_paths = return_paths or ReturnPaths()
        self._host_name = host_name
        self._staging = Staging(message)
        self._inlines = templates.inline_css
        self._templates = _templates(templates)

    @property
    def message_id_domain(self) -> str:
        """What stands after the @ of a Message-ID that the poller makes."""
        if self._settings.message_id_domain:
            return self._settings.message_id_domain
        return next(iter(self.author_domains), self._host_name)

    @property
    def author_domains(self) -> tuple[str, ...]:
        """The domain in From of rows that name no sender; none where each has to."""
        try:
            return (one_address("sender", self._settings.sender or "").domain,)
        except Unsendable:
            return ()

    def check(self) -> list[str]:
        """What is wrong with the configuration, in words with the remedy; empty when all is well."""
        return [*self.check_settings(), *self.check_templates()]

    def check_settings(self) -> list[str]:
        """What concerns every row: sender, staging, keys, Message-IDs. Nothing should be sent while any is wrong."""
        problems = [*self._staging.problems, *self.signing.problems, *self._mailing_lists.problems]
        if self._inlines and (missing := trouble()):
            problems.append(missing)
        if self._settings.sender is not None:
            try:
                one_address("sender", self._settings.sender)
            except Unsendable as error:
                problems.append(f"[message] sender: {error.reason}")
        if not valid_message_id(f"<1@{self.message_id_domain}>"):
            problems.append("[message] message_id_domain: not a domain in ASCII; write it like example.com")
        return problems

    def check_templates(self) -> list[str]:
        """What concerns only the rows that use a template."""
        return list(self._templates.check()) if self._templates else []

    def recipients(self, draft: Draft) -> tuple[Recipient, ...]:
        """Every mailbox of the three lists once, the first list winning; where it goes, and whether it may.

        Raises Unsendable for a list that cannot be read, and when there is no recipient at all.
        """
        self._staging.must_be_readable()
        _require_readable(draft, _LISTS)
        return tuple([self._recipient(kind, mailbox) for kind, found in _mailboxes(draft).items() for mailbox in found])

    def _recipient(self, kind: Literal["to", "cc", "bcc"], mailbox: Mailbox) -> Recipient:
        wire = self._staging.wire(mailbox.wire)
        withheld = self._staging.withheld(wire)
        return Recipient(kind=kind, name=mailbox.name, address=mailbox.address, wire=wire, withheld=withheld)

    def writes_apart(self, draft: Draft) -> bool:
        """Whether each recipient gets a message of their own. Raises Unsendable."""
        return self._mailing_lists.has_tokens(draft.list)

    def compose(self, draft: Draft, reader: str | None = None) -> Composed:
        """The complete message, or Unsendable. `reader` is the address that it is for, if not for all of them alike."""
        self._staging.must_be_readable()
        _require_readable(draft, _COLUMNS)
        if draft.raw is not None:
            return self._as_it_came(draft, draft.raw)
        message_id = require_message_id(draft.message_id)
        sender = self._sender(draft)
        lists = _mailboxes(draft)
        reply_to = address_list("reply_to", draft.reply_to)
        reader = self._staging.wire(reader or next(iter(_all(lists))).address)  # a tester's link is no customer's
        leave = self._mailing_lists.leave(draft, reader)
        content = self._content(draft, leave)
        body = _body(draft, content, self._settings.max_size)
        lines = [
            fields.date_field(draft.date),
            _from_field(sender),
            *_address_fields(lists, reply_to),
            *([] if content.subject is None else [fields.text_field("Subject", content.subject)]),
            f"Message-ID: {message_id}",
            *leave.fields,
            *extra_fields(draft.headers),
            *(self._redirected(lists) if self._staging.redirect_to else ()),
            "MIME-Version: 1.0",
            body.header,
        ]
        token = self._return_paths.token(draft)
        mail_from = _reverse_path(draft, sender, self._return_paths.address(token))
        head = ("\r\n".join(lines) + "\r\n").encode()
        signatures = self.signing.signatures(sender.domain, head, body.body, draft.date)
        whole = parts.written(signatures + head + b"\r\n", body.body)
        if len(whole) > self._settings.max_size:
            raise _too_large(draft, len(whole), self._settings.max_size)
        # What the recipients of one transaction need beside is the courier's to see: bcc is not part of the whole.
        return Composed(
            mail_from=mail_from,
            content=whole,
            smtputf8=not (whole.isascii() and mail_from.isascii()),
            envelope_id=self._return_paths.envelope_id(token),
            rendered=content if draft.template is not None else None,
        )

    def _sender(self, draft: Draft) -> Mailbox:
        return one_address("sender", draft.sender or self._settings.sender or "")

    def _as_it_came(self, draft: Draft, raw: bytes) -> Composed:
        """A raw message, with what it lacks in front (RFC 6409 section 8), signed unless its domain has done so."""
        if draft.attachments:
            raise Unsendable("attachments", "a raw message is whole; put the files into it, as MIME parts")
        message = taken_apart(raw)
        lines = [field.line for field in message.fields if field.name not in LEFT_OUT]
        head = b"".join([*(f"{line}\r\n".encode() for line in self._lacking(draft, message)), *lines])
        author = message.author or (None if message.value("from") else self._sender(draft))
        signer = self.signing.signing_domain(author.domain) if author else None
        is_signed = not message.signing_domains.isdisjoint({signer, author.domain if author else None})
        signatures = b""
        if author and not is_signed:
            signatures = self.signing.signatures(author.domain, head, [message.body], draft.date)
        content = b"".join((signatures, head, b"\r\n", message.body))
        if len(content) > self._settings.max_size:
            raise _too_large(draft, len(content), self._settings.max_size)
        sender = author if author and not draft.sender else self._sender(draft)
        token = self._return_paths.token(draft)
        mail_from = _reverse_path(draft, sender, self._return_paths.address(token))
        dsn = None if self._staging.redirect_to else wire_parameters(draft.dsn)
        return Composed(
            mail_from=mail_from,
            content=content,
            smtputf8=not (head.isascii() and mail_from.isascii()),
            dsn=dsn,
            envelope_id=self._return_paths.envelope_id(token),
        )

    def _lacking(self, draft: Draft, message: Whole) -> Iterable[str]:
        """The fields that a raw message must have and has not."""
        if self._staging.redirect_to:  # its recipients may be blind copies: Rule 3
            yield f"X-Poller-Redirected-Bcc: {sum(map(len, _mailboxes(draft).values()))}"
        if message.value("date") is None:
            yield fields.date_field(draft.date)
        if not message.value("from"):
            yield _from_field(self._sender(draft))
        if not message.value("message-id"):
            yield f"Message-ID: {require_message_id(draft.message_id)}"

    def missing_variables(self, draft: Draft) -> str:
        """Those that its template asks for and the row does not give, all of them; "" where none is found."""
        if draft.template is None or self._templates is None:
            return ""
        reader = self._staging.wire(next(iter(_all(_mailboxes(draft)))).address)
        context = self._mailing_lists.leave(draft, reader).variables(draft.context)
        wants_subject = draft.subject is None
        return missing_variables(self._templates, draft.template, context, draft.locale, subject=wants_subject)

    def _content(self, draft: Draft, leave: Leave) -> Rendered:
        """Subject and bodies, from the columns or from the template, checked."""
        if draft.template is None:
            if draft.body_text is None and draft.body_html is None:
                raise Unsendable("body_text", "neither body_text nor body_html nor template is given; give one")
            subject = None if draft.subject is None else characters.header_text("subject", draft.subject)
            return Rendered(subject=subject, text=draft.body_text, html=draft.body_html)
        if draft.body_text is not None or draft.body_html is not None:
            column = "body_text" if draft.body_text is not None else "body_html"
            raise Unsendable("template", f"{column} is given too; leave one of them out")
        if draft.rendered is not None:
            return draft.rendered
        if self._templates is None:
            raise Unsendable("template", "no [templates] directory is configured; configure it, or give body_text")
        context = leave.variables(draft.context)
        made = self._templates.render(draft.template, context, draft.locale, subject=draft.subject is None)
        subject = _rendered_subject(draft, made.subject)
        return Rendered(subject=subject, text=made.text, html=made.html)

    def _redirected(self, lists: Lists) -> Iterable[str]:
        """Who would have got the message; of `bcc` only how many (Rule 3)."""
        named = [mailbox for kind in ("to", "cc") for mailbox in lists[kind]]
        if named:
            yield fields.address_field("X-Poller-Redirected-From", named)
        if lists["bcc"]:
            yield f"X-Poller-Redirected-Bcc: {len(lists['bcc'])}"


def _templates(settings: TemplateSettings) -> Templates | None:
    if settings.directory is None:
        return None
    inlined = inliner() if settings.inline_css and not trouble() else None
    return Templates(settings.directory, settings.max_size, settings.max_seconds, inlined=inlined)


def _require_readable(draft: Draft, columns: Iterable[str]) -> None:
    for column in columns:
        if isinstance(value := getattr(draft, column), Unreadable):
            raise Unsendable(column, value.reason)
    for file in draft.attachments:
        for text in (file.name, file.content_type, file.content_id):
            if isinstance(text, Unreadable):
                raise Unsendable("attachments", f"{characters.shown(text)} is {text.reason}")


def _rendered_subject(draft: Draft, made: str | None) -> str:
    if draft.subject is not None or made is None:
        return characters.header_text("subject", draft.subject or "")
    try:
        return characters.header_text("context", made.strip(" \t\r\n"))
    except Unsendable as error:
        raise Unsendable("context", f"in the subject that template {draft.template} makes: {error.reason}") from None


@lru_cache(maxsize=256)
def _from_field(sender: Mailbox) -> str:
    """Most rows of a batch have the same one."""
    return fields.address_field("From", [sender])


def _mailboxes(draft: Draft) -> Lists:
    """The three lists, each mailbox once."""
    return read_lists(draft.recipients, draft.cc, draft.bcc)


def _all(lists: Lists) -> Iterable[Mailbox]:
    return chain.from_iterable(lists.values())


def _address_fields(lists: Lists, reply_to: list[Mailbox]) -> list[str]:
    found: list[str] = []
    if lists["to"]:
        found.append(fields.address_field("To", lists["to"]))
    elif not lists["cc"]:
        found.append("To: undisclosed-recipients:;")
    if lists["cc"]:
        found.append(fields.address_field("Cc", lists["cc"]))
    if reply_to:
        found.append(fields.address_field("Reply-To", reply_to))
    return found


def _reverse_path(draft: Draft, sender: Mailbox, marked: str | None) -> str:
    if draft.envelope_from is None:
        return marked or sender.wire
    if draft.envelope_from.strip() in ("", "<>"):
        return ""
    return one_address("envelope_from", draft.envelope_from).wire


def _body(draft: Draft, content: Rendered, most: int) -> Part:
    """The text alone, or as much of mixed(alternative(text, related(html, images)), files) as there is."""
    files = draft.attachments
    if files and (size := sum(len(attachment.content) for attachment in files)) > most:
        raise _too_large(draft, size, most)
    leaves = _text_parts(draft, content)
    if not files and len(leaves) == 1:
        return leaves[0]
    images: list[Part] = []
    others: list[Part] = []
    alternatives = [parts.attachment_part(file, inline=True) for file in files if file.is_alternative]
    for attachment in [file for file in files if not file.is_alternative]:
        inline = _is_shown(attachment, content.html)
        (images if inline else others).append(parts.attachment_part(attachment, inline=inline))
    parts.refuse_repeated_ids(files)
    seed = parts.boundary_seed(draft.message_id, [*leaves, *images, *others, *alternatives])
    if images:
        leaves[-1] = parts.multipart("related", f"=_r{seed}", [leaves[-1], *images])
    leaves += alternatives  # the last is preferred
    body = leaves[0] if len(leaves) == 1 else parts.multipart("alternative", f"=_a{seed}", leaves)
    return parts.multipart("mixed", f"=_m{seed}", [body, *others]) if others else body


def _is_shown(attachment: Attachment, html: str | None) -> bool:
    """Whether the HTML names it. What is inline and named by nothing is seen by nobody: it is a file like others."""
    name = parts.content_id(attachment)
    return bool(name) and html is not None and (f"cid:{name}" in html or f"cid:{quote(name)}" in html)


def _text_parts(draft: Draft, content: Rendered) -> list[Part]:
    """Text, then HTML; without a text one is made from the HTML."""
    columns = ("body_text", "body_html") if draft.template is None else ("context", "context")
    if content.html is None:
        return [parts.text_part("plain", characters.body_bytes(columns[0], content.text or ""))]
    html = characters.body_bytes(columns[1], content.html)
    made = text_from_html(html.decode()) if content.text is None else content.text
    return [parts.text_part("plain", characters.body_bytes(columns[0], made)), parts.text_part("html", html)]


def _too_large(draft: Draft, size: int, most: int) -> TooLarge:
    """Blames the largest column."""
    sizes = {
        "attachments": sum(len(attachment.content) for attachment in draft.attachments),
        "body_html": len(draft.body_html or ""),
        "body_text": len(draft.body_text or ""),
        "template": 1 if draft.template else 0,
        "raw": len(draft.raw or b""),
    }
    column = max(sizes, key=lambda name: sizes[name])
    remedy = "send less, or raise [message] max_size if the relay takes more"
    return TooLarge(column, f"the message has {size:,} bytes, more than the {most:,} allowed; {remedy}")
