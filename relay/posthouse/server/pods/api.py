"""The way to the API server."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.aio.config.config_exception import ConfigException

from posthouse.errors import PosthouseError

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE_FILE: Final = ACCOUNT / "namespace"
TOKEN_FILE: Final = ACCOUNT / "token"
T = TypeVar("T")


class NoCluster(PosthouseError):
    """There is no Kubernetes to ask, though the configuration says that there is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no Kubernetes to ask for the lease: {self.reason}"


class Refused(PosthouseError):
    """The API server did not do what it was asked, or was not reached."""

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        """Of HTTP; None if it was not reached."""
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether the same may be done when it is asked again."""
        return self.status is None or self.status >= 500 or self.status == 429

    @property
    def of_rights(self) -> bool:
        """Whether it does not know us, or what we may do: so says an API server that has only just started, too."""
        return self.status in (401, 403)

    def __str__(self) -> str:
        return f"{self.status} {self.reason}" if self.status is not None else self.reason


async def connect() -> client.ApiClient:
    """By the pod's service account, else by ``KUBECONFIG``. Raises NoCluster."""
    settings = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=settings, try_refresh_token=False
            )
            settings.refresh_api_key_hook = refresh_token  # type: ignore[assignment]  # None is its default
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=settings, persist_config=False
            )
        return client.ApiClient(settings)
    except (ConfigException, OSError, ValueError) as error:
        raise NoCluster(" ".join(str(error).split())) from None
    except Exception as error:  # what the client library makes of a file that is something else
        raise NoCluster(f"the kubeconfig cannot be used: {' '.join(str(error).split())}") from None


def refresh_token(settings: client.Configuration) -> None:
    """Send the token as it is now: the kubelet replaces it before it ends. While there is none to read, the last.

    Asked before each request, and without a clock: one that is set back must not make an old token last.
    """
    try:
        token = TOKEN_FILE.read_text().strip()
    except (OSError, ValueError):
        return
    if token:
        settings.api_key["BearerToken"] = f"Bearer {token}"


def own_namespace() -> str:
    """The namespace of the service account. Raises NoCluster."""
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        raise NoCluster("pod.namespace is empty, and there is no service account that tells it") from None


class Response(Protocol):
    """What a call without preloaded content gives."""

    @property
    def status(self) -> int:
        """Of HTTP."""

    @property
    def reason(self) -> str | None:
        """Of HTTP."""

    async def read(self) -> bytes:
        """The whole body."""


async def answer(call: Awaitable[Response], kind: type[T]) -> T:
    """What the API server says to a call without preloaded content. Raises Refused."""
    try:
        response = await call
        body = await response.read()
        if response.status >= 300:
            raise Refused(response.status, str(response.reason))
        return msgspec.json.decode(body, type=kind)
    except (aiohttp.ClientError, ConfigException, OSError) as error:  # a time-out is an OSError
        raise Refused(None, str(error) or type(error).__name__) from None
    except msgspec.MsgspecError as error:
        raise Refused(None, f"not understood: {error}") from None
