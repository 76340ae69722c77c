"""Device keys in files: PEM (PKCS #8), readable by their owner alone, as OpenSSL writes and reads them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from posthouse.client.errors import InvalidKeyFile
from posthouse.identity import DeviceKey


def create_key_file(path: str | os.PathLike[str]) -> DeviceKey:
    """Write a new key to a new file with mode 0600. Raises InvalidKeyFile, also if the file exists."""
    seed = secrets.token_bytes(32)
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise InvalidKeyFile(os.fspath(path), "the file exists already; nothing was written") from None
    except OSError as error:
        raise InvalidKeyFile(os.fspath(path), error.strerror or "cannot be written") from None
    return DeviceKey(seed)


def load_key(path: str | os.PathLike[str]) -> DeviceKey:
    """The key in a file. Raises InvalidKeyFile."""
    try:
        private = load_pem_private_key(Path(path).read_bytes(), None)
    except OSError as error:
        raise InvalidKeyFile(os.fspath(path), error.strerror or "cannot be read") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidKeyFile(os.fspath(path), "holds no private key in PEM without a password") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidKeyFile(os.fspath(path), "holds a key of another kind than Ed25519")
    return DeviceKey(private.private_bytes_raw())
