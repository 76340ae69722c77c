"""Mutual TLS between members on different machines: who has a certificate of the members' CA is a member.

Names in the certificates are not compared: members come and go, and the CA signs nothing else. Each link takes the
contexts that are current when it begins; links that exist go on when the files change.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import structlog

from posthouse.server.tls import Stamp, UnusableCertificate, no_passphrase, not_after, stamp

_log = structlog.get_logger()


class MutualTls:
    """Our certificate and key, and the CAs whose members are spoken with. Making one raises UnusableCertificate."""

    def __init__(self, cert: Path, key: Path, ca: Path) -> None:
        """PEM files. ``ca`` may hold several: all of them are accepted, so that one can take the place of another."""
        self._cert = cert
        self._key = key
        self._ca = ca
        # The stamp is taken first: files that change while they are read are read again at the next look.
        self._stamp = self._look()
        self._contexts = self._load()

    def context(self, server_side: bool) -> ssl.SSLContext:
        """For a link that begins now."""
        return self._contexts[server_side]

    def reload_if_changed(self) -> bool:
        """Look at the files, for a timer; True if new ones are in use. Broken ones are logged and not used."""
        found = self._look()
        if found == self._stamp:
            return False
        self._stamp = found
        try:
            self._contexts = self._load()
        except UnusableCertificate as error:
            _log.error(
                "new peer certificate refused, the old one stays",
                file=str(error.certificate),
                reason=error.reason,
            )
            return False
        _log.info("peer certificate loaded", file=str(self._cert), expires=not_after(self._cert))
        return True

    def _look(self) -> Stamp:
        return tuple(stamp(path) for path in (self._cert, self._key, self._ca))

    def _load(self) -> dict[bool, ssl.SSLContext]:
        return {side: self._loaded(side) for side in (True, False)}

    def _loaded(self, server_side: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if server_side:
            context.num_tickets = 0  # a link that is resumed would not be held to the CAs of today
        for path in (self._cert, self._key, self._ca):
            try:
                path.read_bytes()
            except OSError as error:
                raise UnusableCertificate(path, (error.strerror or str(error)).lower()) from None
        try:
            context.load_verify_locations(self._ca)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UnusableCertificate(self._ca, reason(error)) from None
        try:
            context.load_cert_chain(self._cert, self._key, password=no_passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UnusableCertificate(self._cert, reason(error)) from None
        return context


Security = MutualTls | None
"""What links over TCP need; None where there are only Unix sockets."""

NO_CERTIFICATES: Final = "links over TCP need peer certificates"


def reason(error: Exception) -> str:
    """What is wrong, in a phrase."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (getattr(error, "strerror", None) or str(error)).lower()
