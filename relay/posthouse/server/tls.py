"""TLS of the client port, with a certificate that can change while the relay runs.

Each connection takes the context that is current when it begins. A new certificate and key become current together,
and only if they fit each other: a broken pair leaves the old one in place.
"""

from __future__ import annotations

import os
import ssl
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509

from posthouse.errors import PosthouseError

_log = structlog.get_logger()

Stamp = tuple[tuple[int, int, int], ...]


class UnusableCertificate(PosthouseError):
    """Certificate and key cannot be used as they are."""

    def __init__(self, certificate: Path, reason: str) -> None:
        super().__init__(certificate, reason)
        self.certificate = certificate
        self.reason = reason

    def __str__(self) -> str:
        return f"the TLS certificate {self.certificate} cannot be used: {self.reason}"


class Certificate:
    """A certificate chain and its key, from two PEM files. Making one raises UnusableCertificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        # The stamp is taken first: files that change while they are read are read again at the next look.
        self._stamp = self._look()
        self.context = self._load()
        """For connections that begin now."""

    def reload_if_changed(self) -> bool:
        """Look at the files, and load them if they are not as they were; for a timer. True if a new one is in use."""
        return self._stamp != self._look() and self.reload()

    def reload(self) -> bool:
        """Load the files whether or not they have changed. What is broken is logged, and the old one stays in use."""
        self._stamp = self._look()
        try:
            self.context = self._load()
            expires = not_after(self._certificate)
        except UnusableCertificate as error:
            _log.error(
                "new certificate refused, the old one stays", file=str(error.certificate), reason=error.reason
            )
            return False
        _log.info("certificate loaded", file=str(self._certificate), expires=expires)
        return True

    def _look(self) -> Stamp:
        return tuple(stamp(path) for path in (self._certificate, self._key))

    def _load(self) -> ssl.SSLContext:
        context = _context()
        for path in (self._certificate, self._key):
            try:
                path.read_bytes()
            except OSError as error:
                raise UnusableCertificate(path, (error.strerror or str(error)).lower()) from None
        try:
            context.load_cert_chain(self._certificate, self._key, password=no_passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UnusableCertificate(self._certificate, _reason(error)) from None
        return context


def not_after(certificate: Path) -> datetime | None:
    """When the first certificate of a PEM file expires; None where that cannot be read."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def no_passphrase() -> str:
    """For ``load_cert_chain``: raises ValueError."""
    # Without this, the library would ask the terminal.
    raise ValueError("the key has a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return str(error)
