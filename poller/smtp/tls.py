"""TLS to a relay: whom we trust, and what to do when we cannot.

Certificates and host names are always verified; there is no switch for it. A private CA goes into `[smtp] ca_file`.
"""

from __future__ import annotations

import ssl

from poller.exchange import Phase, RelayTrouble

_X509_EXPIRED = 10
_X509_NAME_MISMATCH = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH in OpenSSL's x509_vfy.h."""
_X509_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
"""No issuer to be had, or a self-signed certificate."""


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's CAs, and those of `ca_file` beside them. Raises RelayTrouble if that cannot be read."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 9525 section 2: a name is in subjectAltName, or nowhere
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ValueError) as error:
            reason = f"[smtp] ca_file {ca_file}: {error}; it must be a readable file of PEM certificates"
            raise RelayTrouble(Phase.STARTTLS, reason) from error
    return context


def in_words(error: ssl.SSLError, host: str) -> str:
    """Why the handshake with `host` failed, and the remedy."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        if "WRONG_VERSION_NUMBER" in str(error):
            return 'answers in plain text where TLS was expected; set [smtp] security = "starttls"'
        return f"TLS failed: {error.reason or error}"
    if error.verify_code in _X509_NAME_MISMATCH:
        return (
            f"its certificate is for another name ({error.verify_message}); set [smtp] host to a name in the "
            f"certificate instead of {host}; a name that is only in the CN, not in subjectAltName, does not count"
        )
    if error.verify_code == _X509_EXPIRED:
        return "its certificate has expired; it has to be renewed there, or this machine's clock is wrong"
    if error.verify_code in _X509_UNKNOWN_ISSUER:
        return (
            f"its certificate is not trusted ({error.verify_message}); if the relay has a private CA, set [smtp] "
            "ca_file to that CA's PEM file"
        )
    return f"its certificate does not verify: {error.verify_message}"
