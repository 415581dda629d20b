"""Tag lists, as DKIM (RFC 6376 section 3.2) and DMARC (RFC 9989 section 4.7) write them: `v=DKIM1; k=rsa; p=...`."""

from __future__ import annotations


def tags_of(text: str) -> dict[str, str]:
    """Each tag in lower case and its value, without spaces around them; what is no tag is passed over."""
    pairs = (item.partition("=") for item in text.split(";"))
    return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}


def begins_with(text: str, version: str) -> bool:
    """Whether the first tag is this version, as in "v=DMARC1"."""
    name, _, value = text.partition(";")[0].partition("=")
    return f"{name.strip().lower()}={value.strip()}" == version
