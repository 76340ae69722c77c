"""Settings arrive from every place, the nearer one wins, and whatever is wrong is named in one line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from posthouse.config import FIELDS, Config, Field, load, resolve
from posthouse.errors import ConfigError, PosthouseError

KEYS = sorted(FIELDS)
POSTGRES = "postgresql://host/relay"


def value_of(config: Config, field: Field) -> Any:
    return getattr(getattr(config, field.section), field.name)


def another_value(field: Field) -> Any:
    """A value that the setting takes and that is not its default."""
    named: dict[str, Any] = {
        "server.public_names": ("relay.example", "relay.example:8443"),
        "server.listen": "127.0.0.1:1234",
        "server.metrics_listen": "[::1]:0",
        "store.url": "sqlite:////var/lib/posthouse.db",
        "limits.default_window": 128,
        "limits.default_ttl_s": 60,
        "limits.max_ttl_s": 40 * 86_400,
        "limits.max_message_bytes": 4096,
        "limits.memory_watermark_bytes": 2**30,
        "quota.total_bytes": 2**30,
        "lease.renew_s": 0.5,
        "lease.request_timeout_s": 0.5,
        "lease.deadline_s": 4.0,
        "peer.listen": "unix:/run/posthouse/peer.sock",
        "peer.address": "relay-0.relay:8081",
    }
    if field.key in named:
        return named[field.key]
    if field.choices:
        return next(choice for choice in field.choices if choice != field.default)
    if field.kind is bool:
        return not field.default
    if field.kind is str:
        return "something"
    return field.kind(field.default + 1)


def needed_beside(field: Field) -> dict[str, Any]:
    """Settings that this one cannot do without."""
    for together in (
        {"server.tls_cert", "server.tls_key"},
        {"peer.tls_cert", "peer.tls_key", "peer.tls_ca"},
    ):
        if field.key in together:
            return dict.fromkeys(together - {field.key}, "/other.pem")
    return {}


def as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return as_text(value) if isinstance(value, bool) or not isinstance(value, str) else f'"{value}"'


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_taken_from_the_file(key: str, tmp_path: Path) -> None:
    field, value = FIELDS[key], another_value(FIELDS[key])
    file = tmp_path / "posthouse.toml"
    file.write_text(f"[{field.section}]\n{field.name} = {as_toml(value)}\n")
    resolved = resolve(file, {}, needed_beside(field))
    assert value_of(resolved.config, field) == value
    assert resolved.sources[key] == "file"


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_taken_from_the_environment_over_the_file(key: str, tmp_path: Path) -> None:
    field, value = FIELDS[key], another_value(FIELDS[key])
    file = tmp_path / "posthouse.toml"
    file.write_text(f"[{field.section}]\n{field.name} = {as_toml(field.default)}\n")
    resolved = resolve(file, {field.variable: as_text(value)}, needed_beside(field))
    assert value_of(resolved.config, field) == value
    assert type(value_of(resolved.config, field)) is type(value)
    assert resolved.sources[key] == "environment"


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_taken_from_a_flag_over_the_environment(key: str) -> None:
    field, value = FIELDS[key], another_value(FIELDS[key])
    environ = {field.variable: as_text(field.default)} if field.default else {}
    for given in (value, as_text(value)):
        resolved = resolve(None, environ, {key: given, **needed_beside(field)})
        assert value_of(resolved.config, field) == value
        assert resolved.sources[key] == "flag"


def test_nothing_given_means_the_defaults() -> None:
    assert load() == Config() == load(None, {"PATH": "/bin"}, {"server.listen": None})


def test_a_setting_has_a_default_that_it_would_take_and_says_why() -> None:
    for field in FIELDS.values():
        if field.default not in ("", ()):
            assert field.from_value(field.default) == field.default, field.key
        assert field.setting.about.endswith("."), field.key
        assert field.setting.why.endswith("."), field.key
        assert field.kind not in (int, float) or (field.setting.unit and field.setting.minimum is not None), (
            field.key
        )


def test_names_in_the_environment_are_unambiguous() -> None:
    assert len({field.variable for field in FIELDS.values()}) == len(FIELDS)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            "[limits]\nmax_windw = 4\n",
            "limits.max_windw: unknown key; allowed: max_window, default_window or others;",
        ),
        ("[limit]\nmax_window = 4\n", "limit: unknown section; allowed: limits or others;"),
        ("[lease]\nkin = 'none'\n", "lease.kin: unknown key; allowed: kind"),
        ("limits = 4\n", "limits: 4 is not a section; allowed: a table, [limits]"),
        (
            "[limits]\nmax_window = 'many'\n",
            "limits.max_window: 'many' is not an integer; allowed: an integer from 1 to",
        ),
        ("[limits]\nmax_window = true\n", "limits.max_window: True is not an integer;"),
        ("[limits]\nmax_window = 4.0\n", "limits.max_window: 4.0 is not an integer;"),
        ("[limits]\nmax_window = 0\n", "limits.max_window: 0 is too small;"),
        ("[limits]\nmax_window = 9999999\n", "limits.max_window: 9999999 is too large;"),
        ("[commit]\ntick_ms = nan\n", "commit.tick_ms: nan is not finite;"),
        ("[commit]\ntick_ms = inf\n", "commit.tick_ms: inf is not finite;"),
        ("[legacy]\nenabled = 1\n", "legacy.enabled: 1 is neither true nor false; allowed: true or false"),
        (
            "[log]\nlevel = 'loud'\n",
            "log.level: 'loud' is not one of them; allowed: debug, info, warning or error",
        ),
        ("[log]\nlevel = []\n", "log.level: [] is not one of them;"),
        ("[server]\nlisten = '8080'\n", "server.listen: '8080' does not end in a port; allowed: HOST:PORT"),
        ("[server]\nlisten = 'host:70000'\n", "server.listen: 'host:70000' does not end in a port;"),
        ("[server]\nlisten = '::1:80'\n", "server.listen: '::1:80' has no usable host;"),
        ("[server]\nlisten = ':80'\n", "server.listen: ':80' has no usable host;"),
        ("[server]\nlisten = ''\n", "server.listen: it is empty;"),
        ("[server]\npublic_names = 'a'\n", "server.public_names: 'a' is not a list of texts;"),
        (
            "[server]\npublic_names = ['https://a']\n",
            "server.public_names: 'https://a' does not end in a port;",
        ),
        ("[server]\npublic_names = ['a:0']\n", "server.public_names: 'a:0' has port 0"),
        ("[server]\npublic_names = ['']\n", "server.public_names: it is empty;"),
        ('[server]\nname = "a\\nb"\n', "server.name: it has a control character;"),
        (
            "[lease]\nname = 'Relay'\n",
            "lease.name: 'Relay' is no name of a Kubernetes object; allowed: lower-case",
        ),
        ("[lease]\nname = 'a_b'\n", "lease.name: 'a_b' is no name of a Kubernetes object;"),
        ("[lease]\nname = 'a.-b'\n", "lease.name: 'a.-b' is no name of a Kubernetes object;"),
        ("[lease]\nname = ''\n", "lease.name: it is empty;"),
        ("[server]\nlinger_s = -1\n", "server.linger_s: -1 is too small;"),
        (
            "[store]\nurl = 'mysql://x'\n",
            "store.url: 'mysql://x' is not a store that this release knows; allowed: memory:",
        ),
        ("[store]\nurl = 'sqlite:///'\n", "store.url: 'sqlite:///' is not a store"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(toml: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert str(raised.value).startswith(f"{file}: {line}")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, PosthouseError)


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("POSTHOUSE_LIMITS_MAX_WINDW", "4", "unknown variable; allowed: POSTHOUSE_LIMITS_MAX_WINDOW"),
        ("POSTHOUSE_NONSENSE", "", "unknown variable;"),
        ("POSTHOUSE_SERVER_PORT", "80", "unknown variable;"),
        (
            "POSTHOUSE_LIMITS_MAX_WINDOW",
            "many",
            "'many' is not a number of this kind; allowed: an integer from 1 to",
        ),
        ("POSTHOUSE_LIMITS_MAX_WINDOW", "", "'' is not a number of this kind;"),
        ("POSTHOUSE_LIMITS_MAX_WINDOW", "0", "0 is too small;"),
        ("POSTHOUSE_LEGACY_ENABLED", "yes", "'yes' is neither true nor false;"),
        ("POSTHOUSE_LOG_LEVEL", "INFO", "'INFO' is not one of them;"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(variable: str, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {variable: text})
    assert str(raised.value).startswith(f"{variable}: {line}")


def test_what_is_wrong_in_a_flag_is_named_as_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--listen: 'nowhere' does not end in a port; allowed: HOST:PORT"):
        load(None, {}, {"server.listen": "nowhere"})
    with pytest.raises(ConfigError, match=r"^limits\.max_window: 0 is too small"):
        load(None, {}, {"limits.max_window": 0})
    with pytest.raises(ConfigError, match=r"^server\.lisen: unknown key"):
        load(None, {}, {"server.lisen": "a:1"})


def test_variables_that_kubernetes_adds_for_services_are_left_alone() -> None:
    environ = {
        "POSTHOUSE_SERVICE_HOST": "10.0.0.1",
        "POSTHOUSE_SERVICE_PORT": "8080",
        "POSTHOUSE_SERVICE_PORT_METRICS": "9090",
        "POSTHOUSE_PORT": "tcp://10.0.0.1:8080",
        "POSTHOUSE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "POSTHOUSE_PORT_8080_TCP_PROTO": "tcp",
        "POSTHOUSE_PORT_8080_TCP_PORT": "8080",
        "POSTHOUSE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "POSTHOUSE_EU_WEST_SERVICE_HOST": "10.0.0.2",
    }
    assert load(None, environ) == Config()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"limits.max_window": 10}, r"^limits\.default_window: 256 is more than limits\.max_window \(10\)"),
        ({"limits.max_ttl_s": 10}, r"^limits\.default_ttl_s: 2592000 is more than limits\.max_ttl_s"),
        (
            {"limits.max_message_bytes": 2**20},
            r"^limits\.max_message_bytes: 1048576 is more than a frame has room for",
        ),
        ({"limits.max_frame_bytes": 2**23}, r"^limits\.max_outbound_bytes: 4194304 is less than one frame"),
        (
            {"limits.max_inflight_bytes": 2**17},
            r"^limits\.max_inflight_bytes: 131072 is less than one message",
        ),
        ({"server.tls_cert": "a.pem"}, r"^server\.tls_key: it is empty while server\.tls_cert is set"),
        ({"server.tls_key": "a.pem"}, r"^server\.tls_cert: it is empty while server\.tls_key is set"),
        ({"store.url": "memory:", "lease.kind": "file"}, r"^lease\.kind: 'file' has no file to lock"),
        ({"store.url": "memory:", "lease.kind": "store"}, r"^lease\.kind: 'store' has no place in"),
        (
            {"store.url": "memory:", "lease.kind": "kubernetes"},
            r"^peer\.tls_cert: it is empty, and members in pods",
        ),
        (
            {"store.url": POSTGRES, "pod.name": "relay-0"},
            r"^peer\.tls_cert: it is empty, and members in pods",
        ),
        (
            {"store.url": POSTGRES, "lease.kind": "kubernetes"},
            r"^peer\.tls_cert: it is empty, and members in",
        ),
        ({"lease.renew_s": 2.5}, r"^lease\.deadline_s: 3 s leaves no time to try a renewal again"),
        ({"lease.duration_s": 3.1}, r"^lease\.deadline_s: 3 s is too close to lease\.duration_s"),
        ({"peer.tls_cert": "a.pem", "peer.tls_ca": "b.pem"}, r"^peer\.tls_key: it is empty while others"),
        ({"peer.listen": "0.0.0.0:8081"}, r"^peer\.listen: a port needs peer\.tls_cert"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load(None, {}, overrides)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read \(no such file or directory\)"):
        load(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    file = tmp_path / "bad.toml"
    for content in (b"[limits\n", b"\xff\xfe", b"[limits]\na = 1\na = 1\n"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.toml: is not TOML") as raised:
            load(file)
        assert "\n" not in str(raised.value)


def test_addresses_and_names_become_canonical() -> None:
    names = ["Relay.Example:443", "relay.example:80", "[2001:DB8:0::1]:8080", "[::1]", "LOCALHOST"]
    config = load(
        None, {}, {"server.public_names": names, "server.listen": "[::0]:8080", "store.url": "memory://"}
    )
    assert config.server.public_names == (
        "relay.example",
        "relay.example",
        "[2001:db8::1]:8080",
        "[::1]",
        "localhost",
    )
    assert config.server.listen == "[::]:8080"
    assert config.store.url == "memory:"


def test_the_largest_message_follows_from_the_frame_unless_set() -> None:
    assert load().limits.message_bytes == (2**20 - 4096) * 3 // 4
    assert load(None, {}, {"limits.max_message_bytes": 5000}).limits.message_bytes == 5000


def test_paths_follow_from_the_store_url() -> None:
    absolute = load(None, {}, {"store.url": "sqlite:////var/lib/posthouse/a.db"})
    assert absolute.sqlite_path == Path("/var/lib/posthouse/a.db")
    assert absolute.control_socket_path == Path("/var/lib/posthouse/a.db.sock")
    assert (load().sqlite_path, load().control_socket_path) == (
        Path("posthouse.db"),
        Path("posthouse.db.sock"),
    )
    memory = load(None, {}, {"store.url": "memory:"})
    assert (memory.sqlite_path, memory.control_socket_path) == (None, None)
    named = load(None, {}, {"store.url": "memory:", "server.control_socket": "/run/posthouse.sock"})
    assert named.control_socket_path == Path("/run/posthouse.sock")


def test_a_configuration_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().limits.max_window = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    ["postgresql://relay@db1:5432,db2:5433/posthouse?sslmode=require", "postgres:///posthouse?host=/run/pg"],
)
def test_a_store_on_postgresql_is_taken_as_it_is(url: str) -> None:
    assert load(None, {}, {"store.url": url}).store.url == url


@pytest.mark.parametrize(
    "overrides",
    [
        {"pod.name": "relay-0"},
        {"pod.name": "relay-0", "store.url": POSTGRES, "peer.listen": "unix:/p"},
        {
            "pod.name": "relay-0",
            "store.url": POSTGRES,
            "peer.tls_cert": "a",
            "peer.tls_key": "b",
            "peer.tls_ca": "c",
        },
        {"store.url": "memory:", "pod.name": "relay-0", "peer.listen": "unix:/p"},
        {"store.url": POSTGRES, "pod.name": "relay-0", "lease.kind": "store"},
    ],
)
def test_members_in_pods_that_reach_each_other_or_are_alone_are_fine(overrides: dict[str, Any]) -> None:
    assert load(None, {}, overrides).pod.name == "relay-0"


def test_what_a_manifest_tells_of_its_pod_is_taken_from_the_environment() -> None:
    environ = {
        "POSTHOUSE_POD_NAME": "relay-0",
        "POSTHOUSE_POD_UID": "0f1e",
        "POSTHOUSE_POD_NAMESPACE": "relays",
        "POSTHOUSE_POD_IP": "fd00::7",
        "POSTHOUSE_SERVER_LINGER_S": "7.5",
        # Beside those that Kubernetes adds for a Service named posthouse-pod.
        "POSTHOUSE_POD_SERVICE_HOST": "10.0.0.1",
        "POSTHOUSE_POD_PORT": "tcp://10.0.0.1:8080",
    }
    config = load(None, environ)
    assert dataclasses.astuple(config.pod) == ("relay-0", "0f1e", "relays", "fd00::7", "relay")
    assert config.server.linger_s == 7.5
    assert config.lease_kind == "kubernetes"
