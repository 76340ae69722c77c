"""What stands in a Lease of Kubernetes: from a record, and to one.

What a Lease has a field for is in its ``spec``, where every tool looks for it; the rest is in annotations
(``posthouse.dev/…``). A released Lease has no holder, by the convention of Kubernetes' own clients.

A version is the object's UID and its resource version: neither comes back, also not for an object that was deleted and
made again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from posthouse.single_active.leases.interface import Container, Record

PREFIX: Final = "posthouse.dev/"
"""Of the annotations."""
MOST_TRANSITIONS: Final = 2**31 - 1
"""As the API has it. Somebody may have written that in; epochs go on rising by the store alone."""
HOLDERS_NOTES: Final = ("epoch", "last-handover")
"""Removed with a claim: they are the earlier holder's until the new one serves. A released Lease keeps them."""
FOREIGN_DURATION_S: Final = 15.0
"""Of a holder that does not say: what Kubernetes' own components take."""


class Metadata(Struct, rename="camel"):
    """Of any object, as far as it is read."""

    uid: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}


class Spec(Struct, rename="camel"):
    """Of a Lease, as far as it is read."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class Lease(Struct):
    """The object, as far as it is read."""

    metadata: Metadata
    spec: Spec = msgspec.field(default_factory=Spec)


def time_text(at: datetime) -> str:
    """A time in UTC as an API object has it, never on a whole second.

    The client library writes such a time without a fraction, and the API server refuses a MicroTime that has none.
    """
    at = at.replace(microsecond=at.microsecond or 1)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def patch_of(
    record: Record, container: Container, notes: Mapping[str, str], acquired: str, renewed: str
) -> dict[str, Any]:
    """What a write sets; None where a field or an annotation is to be removed.

    ``container``: the writer's. ``notes``: what it says of itself besides, by annotation.
    """
    seconds = math.ceil(record.duration_s)
    # A member's name may have a _ of its own, a UID has none: then there is always one to split at.
    holder = record.holder
    if container.uid or "_" in holder:
        holder = f"{holder}_{container.uid}"
    annotations = {
        "address": record.peer or None,
        "container-id": container.id or None,
        "pod": container.pod or None,
        "duration": None if seconds == record.duration_s else repr(record.duration_s),
        "released-by": holder if record.released else None,
        "stamp": str(record.stamp),
        "successor": record.successor or None,
        **(dict.fromkeys(HOLDERS_NOTES) if not record.released else {}),
        **notes,
    }
    return {
        "metadata": {"annotations": {PREFIX + name: text for name, text in annotations.items()}},
        "spec": {
            "holderIdentity": "" if record.released else holder,
            "leaseDurationSeconds": seconds,
            "leaseTransitions": min(record.transitions, MOST_TRANSITIONS),
            "acquireTime": acquired,
            "renewTime": renewed,
        },
    }


def without_none(patch: dict[str, Any]) -> dict[str, Any]:
    """The same for a new object, which has nothing that could be removed."""
    annotations = patch["metadata"]["annotations"]
    kept = {name: text for name, text in annotations.items() if text is not None}
    return patch | {"metadata": patch["metadata"] | {"annotations": kept}}


def record_of(lease: Lease) -> Record:
    """What stands in a Lease; one that is not of our making is that of a holder who renews it as we do."""
    spec = lease.spec
    notes = lease.metadata.annotations
    note = {name.removeprefix(PREFIX): text for name, text in notes.items() if name.startswith(PREFIX)}
    released = not spec.holder_identity
    identity = note.get("released-by", "") if released else spec.holder_identity or ""
    holder, _, uid = identity.rpartition("_") if "_" in identity else (identity, "", "")
    seconds = spec.lease_duration_seconds or FOREIGN_DURATION_S
    return Record(
        holder,
        int(_number(note.get("stamp"), 0)),
        spec.lease_transitions or 0,
        _number(note.get("duration"), seconds),
        note.get("address", ""),
        container=Container(note.get("pod", ""), uid, note["container-id"])
        if "container-id" in note
        else None,
        released=released,
        successor=note.get("successor", ""),
        version=f"{lease.metadata.uid}/{lease.metadata.resource_version}",
    )


def _number(text: str | None, otherwise: float) -> float:
    """What somebody wrote into an annotation; what is no amount is passed over: the holder will write it anew."""
    try:
        number = float(text or "")
    except ValueError:
        return otherwise
    return number if math.isfinite(number) and number > 0 else otherwise
