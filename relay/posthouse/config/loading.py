"""From a file, the environment and flags to one checked `Config`.

A flag stands above the environment, which stands above the file, which stands above the defaults. Whatever is
not known or does not fit raises ConfigError, whose one line names it as its writer did: nothing is passed over.
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posthouse.config.sections import Config
from posthouse.config.setting import ENVIRONMENT_PREFIX, BadValueError, Field, fields_of
from posthouse.errors import ConfigError

Source = Literal["default", "file", "environment", "flag"]

FIELDS: dict[str, Field] = {
    field.key: field
    for section in dataclasses.fields(Config)
    for field in fields_of(section.name, type(getattr(Config(), section.name)))
}
"""Every setting by its key, in the order of the documentation."""

_BY_VARIABLE = {field.variable: field for field in FIELDS.values()}

NOT_SETTINGS = frozenset({"POSTHOUSE_CONFIG", "POSTHOUSE_REQUIRE"})
"""Variables of this prefix that others read: the path of the file itself, and what the test suite must not skip."""

# Kubernetes puts these into every container of a namespace that has a Service named posthouse or posthouse-….
_SERVICE_VARIABLE = re.compile(r"POSTHOUSE(_[A-Z0-9_]+)?_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)")
_PORT_VARIABLE = re.compile(r"POSTHOUSE(_[A-Z0-9_]+)?_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
_PORT_PART = re.compile(r"POSTHOUSE(_[A-Z0-9_]+)?_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)")
_PORT_URL = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration and where each of its values came from, by key."""

    config: Config
    sources: dict[str, Source]


def load(
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration from these places; see `resolve`."""
    return resolve(file, environ, overrides).config


def resolve(
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Resolved:
    """The configuration and its origins.

    `file` is TOML. `environ` is usually `os.environ`; variables without the prefix are left alone. `overrides` are
    flags by key (`{"server.listen": "…"}`): texts as in the environment, or values as in a file; None is no flag.
    Raises ConfigError.
    """
    values = {key: field.default for key, field in FIELDS.items()}
    sources: dict[str, Source] = dict.fromkeys(FIELDS, "default")
    layers: list[tuple[Source, dict[str, Any]]] = [
        ("file", _from_file(Path(file)) if file is not None else {}),
        ("environment", _from_environment(environ or {})),
        ("flag", _from_flags(overrides or {})),
    ]
    for source, found in layers:
        values.update(found)
        sources.update(dict.fromkeys(found, source))
    config = _assembled(values)
    _check_together(config)
    return Resolved(config, sources)


def _assembled(values: Mapping[str, Any]) -> Config:
    sections = {}
    for section in dataclasses.fields(Config):
        struct = type(getattr(Config(), section.name))
        named = {field.name: values[field.key] for field in FIELDS.values() if field.section == section.name}
        sections[section.name] = struct(**named)
    return Config(**sections)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(str(path), f"cannot be read ({reason})", "a TOML file") from None
    except ValueError as error:
        raise ConfigError(str(path), f"is not TOML ({error})", "a TOML file") from None
    sections = [section.name for section in dataclasses.fields(Config)]
    found = {}
    for section, table in document.items():
        where = f"{path}: {section}"
        if section not in sections:
            raise ConfigError(where, "unknown section", _near(section, sections))
        if not isinstance(table, dict):
            raise ConfigError(where, f"{table!r} is not a section", f"a table, [{section}]")
        for name, value in table.items():
            field = FIELDS.get(f"{section}.{name}")
            if field is None:
                names = [field.name for field in FIELDS.values() if field.section == section]
                raise ConfigError(f"{where}.{name}", "unknown key", _near(name, names))
            found[field.key] = _value(field, value, f"{path}: {field.key}", text=False)
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for variable, text in environ.items():
        field = _BY_VARIABLE.get(variable)
        if field is not None:
            found[field.key] = _value(field, text, variable, text=True)
        elif variable.startswith(ENVIRONMENT_PREFIX) and not _is_of_others(variable, text):
            raise ConfigError(variable, "unknown variable", _near(variable, _BY_VARIABLE))
    return found


def _is_of_others(variable: str, text: str) -> bool:
    if variable in NOT_SETTINGS or _SERVICE_VARIABLE.fullmatch(variable) or _PORT_PART.fullmatch(variable):
        return True
    return bool(_PORT_VARIABLE.fullmatch(variable) and _PORT_URL.match(text))


def _from_flags(overrides: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in overrides.items():
        if value is None:
            continue
        field = FIELDS.get(key)
        if field is None:
            raise ConfigError(key, "unknown key", _near(key, FIELDS))
        found[key] = _value(field, value, field.setting.flag or key, text=isinstance(value, str))
    return found


def _value(field: Field, value: Any, where: str, *, text: bool) -> Any:
    try:
        return field.from_text(value) if text else field.from_value(value)
    except BadValueError as error:
        raise ConfigError(where, str(error), field.allowed()) from None


def _near(name: str, names: Iterable[str]) -> str:
    """The names that were perhaps meant, or all of them where they are few."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close or len(names) > 12:
        return (", ".join(close) + " or others; " if close else "") + "see `posthouse config reference`"
    return ", ".join(names)


def _check_together(config: Config) -> None:
    """What no setting can know alone."""
    limits, server = config.limits, config.server
    _at_most("limits.default_window", limits.default_window, "limits.max_window", limits.max_window)
    _at_most("limits.default_ttl_s", limits.default_ttl_s, "limits.max_ttl_s", limits.max_ttl_s)
    room = limits.json_frame_room
    _at_most("limits.max_message_bytes", limits.max_message_bytes, "a frame has room for", room)
    _at_least("limits.max_outbound_bytes", limits.max_outbound_bytes, "one frame", limits.max_frame_bytes)
    _at_least("limits.max_inflight_bytes", limits.max_inflight_bytes, "one message", limits.message_bytes)
    if bool(server.tls_cert) != bool(server.tls_key):
        missing, present = ("tls_key", "tls_cert") if server.tls_cert else ("tls_cert", "tls_key")
        raise ConfigError(
            f"server.{missing}", f"it is empty while server.{present} is set", "both or neither"
        )
    _check_lease(config)
    peer = config.peer
    files = {"tls_cert": peer.tls_cert, "tls_key": peer.tls_key, "tls_ca": peer.tls_ca}
    if any(files.values()) and not all(files.values()):
        missing = next(name for name, value in files.items() if not value)
        raise ConfigError(f"peer.{missing}", "it is empty while others of peer.tls_* are set", "all or none")
    if peer.listen and not peer.listen.startswith("unix:") and not peer.tls_cert:
        raise ConfigError(
            "peer.listen", "a port needs peer.tls_cert, peer.tls_key and peer.tls_ca", "unix:/path"
        )


def _check_lease(config: Config) -> None:
    lease = config.lease
    if lease.kind == "file" and config.sqlite_path is None:
        raise ConfigError(
            "lease.kind", f"'file' has no file to lock with store.url {config.shown_store!r}", "auto"
        )
    if lease.kind == "store" and config.store.url == "memory:":
        raise ConfigError("lease.kind", "'store' has no place in store.url 'memory:'", "auto or none")
    if config.lease_kind == "kubernetes" and config.sqlite_path is None:
        peer = config.peer
        if not peer.tls_cert and not peer.listen:
            raise ConfigError(
                "peer.tls_cert", "it is empty, and members in pods have no other way to each other", "a file"
            )
    tried = lease.renew_s + lease.request_timeout_s
    if tried >= lease.deadline_s:
        problem = f"{lease.deadline_s:g} s leaves no time to try a renewal again"
        raise ConfigError(
            "lease.deadline_s", problem, f"above lease.renew_s + lease.request_timeout_s ({tried:g})"
        )
    if lease.deadline_s * 1.05 > lease.duration_s:
        problem = f"{lease.deadline_s:g} s is too close to lease.duration_s"
        raise ConfigError("lease.deadline_s", problem, f"well below {lease.duration_s:g}")


def _at_most(key: str, value: int, other: str, bound: int) -> None:
    if value > bound:
        raise ConfigError(key, f"{value} is more than {other} ({bound})", f"at most {bound}")


def _at_least(key: str, value: int, other: str, bound: int) -> None:
    if value < bound:
        raise ConfigError(key, f"{value} is less than {other} ({bound})", f"at least {bound}")
