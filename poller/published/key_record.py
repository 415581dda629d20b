"""Pure: what the DNS says of a DKIM key, beside the key that signs (RFC 6376 section 3.6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.published.tags import begins_with, tags_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.message.keys import SigningKey


def name_of(selector: str, domain: str) -> str:
    """Where the record of a key is."""
    return f"{selector}._domainkey.{domain}"


def trouble_with(texts: Sequence[str], key: SigningKey) -> str:
    """Why receivers can't check what `key` signs, with the remedy; "" if they can. `texts` are the TXT records."""
    if len(texts) != 1:
        return f"{len(texts)} records, of which receivers take any; leave one" if texts else "no record; publish it"
    tags = tags_of(texts[0])
    kind, hashes, services = tags.get("k", "rsa"), tags.get("h", "sha256"), tags.get("s", "*")
    match tags:
        case {"v": version} if version != "DKIM1" or not begins_with(texts[0], "v=DKIM1"):
            return "a record that is none of DKIM's: v=DKIM1 must come first"
        case {"p": ""}:
            return "the key is revoked (p= is empty); publish it again, or sign with another"
        case {"p": public} if "".join(public.split()) == key.public and kind == key.algorithm.partition("-")[0]:
            return _limits(hashes, services)
        case {"p": _}:
            return "another key than key_file holds; publish this one, or name the selector that belongs to it"
        case _:
            return "a record without a key (p=); publish this one"


def is_testing(texts: Sequence[str]) -> bool:
    """Whether the domain says t=y: receivers treat the mail as if it were not signed."""
    return any("y" in tags_of(text).get("t", "").split(":") for text in texts)


def _limits(hashes: str, services: str) -> str:
    if "sha256" not in _items(hashes):
        return f"h={hashes} keeps sha256 out; take h= out of the record"
    if not {"*", "email"} & {*_items(services)}:
        return f"s={services} keeps mail out; take s= out of the record"
    return ""


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(":")]
