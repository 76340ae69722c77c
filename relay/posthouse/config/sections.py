"""The settings of the relay: what each does, its unit, its default and the reason for it.

With `limits`, the one place to add a setting. The file, the environment, the checks, `posthouse config reference`
and docs/configuration.md follow from what stands here. What 0 or an empty text means is said where it is allowed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote

from posthouse.config.forms import (
    LISTEN_ADDRESS,
    OBJECT_NAME,
    PEER_ADDRESS,
    PUBLIC_NAME,
    STORE_URL,
    hidden_password,
)
from posthouse.config.limits import DAY_S, MIB, Commit, Limits, Quota
from posthouse.config.setting import Setting

HAND_OVER_PATIENCE_S: Final = 4.5
"""How long a hand-over may wait beyond what is set: for the store 2 s, its writer 0.5 s, the successor 2 s."""
PARTING_PATIENCE_S: Final = 9.0
"""The same of the rest of a stop: 2 s for clients' close frames, 2 s for their last acks, 5 s for the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the relay listens, under which names it is known, and how it stops."""

    name: Annotated[
        str,
        Setting(
            "Name of the relay in its information document.",
            why="Only people read it; the relay's id, which programs use, is made by the store.",
        ),
    ] = "posthouse"
    member: Annotated[
        str,
        Setting(
            "Name of this member among those that share the store; each start adds a few letters of its own.",
            why="A host's name, or a pod's, is how its operator knows it.",
            empty="the pod's name, or the host's",
        ),
    ] = ""
    listen: Annotated[
        str,
        Setting(
            "Address that clients connect to, for WebSockets and the information document.",
            why="A relay is there to be reached, and 8080 needs no privilege. Port 0 takes any free one.",
            form=LISTEN_ADDRESS,
            flag="--listen",
        ),
    ] = "0.0.0.0:8080"
    metrics_listen: Annotated[
        str,
        Setting(
            "Address of /metrics, /healthz, /readyz and /status. Nothing there changes anything.",
            why="Probes and scrapers come from other machines. Keep the port away from the public network.",
            form=LISTEN_ADDRESS,
            flag="--metrics-listen",
        ),
    ] = "0.0.0.0:9090"
    public_names: Annotated[
        tuple[str, ...],
        Setting(
            "Names under which clients dial this relay; a client's signature is bound to one of them.",
            why="Without any, the listen address and the loopback names do: enough for one machine, "
            "too little behind a load balancer.",
            form=PUBLIC_NAME,
            flag="--public-name",
        ),
    ] = ()
    tls_cert: Annotated[
        str,
        Setting(
            "File with the certificate chain (PEM) of the client port; read again when it changes.",
            why="TLS often ends at a proxy in front; set it together with server.tls_key where it does not.",
            empty="no TLS",
            flag="--tls-cert",
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Setting(
            "File with the private key (PEM) of server.tls_cert, without a passphrase.",
            why="As for server.tls_cert.",
            empty="no TLS",
            flag="--tls-key",
        ),
    ] = ""
    tls_reload_s: Annotated[
        float,
        Setting(
            "How often the certificate and key files are looked at for a change.",
            why="A renewed certificate has days of overlap with the old one, and a look costs two system calls.",
            unit="s",
            minimum=0.1,
            maximum=DAY_S,
        ),
    ] = 10.0
    linger_s: Annotated[
        float,
        Setting(
            "How long a relay that stops goes on taking new connections, when another member serves them.",
            why="A load balancer needs seconds to learn that a member is not ready; whoever it sends until then must "
            "not find a closed door. Without one in front nothing is gained.",
            unit="s",
            minimum=0,
            maximum=3600,
            zero="none are taken from the first moment",
        ),
    ] = 0.0
    drain_s: Annotated[
        float,
        Setting(
            "Time over which a stopping relay sends its clients away, spread evenly.",
            why="Long enough that they do not all return to another relay in the same second, "
            "short enough for the 30 s that service managers usually allow.",
            unit="s",
            minimum=0,
            maximum=3600,
            zero="at once",
        ),
    ] = 10.0
    backlog: Annotated[
        int,
        Setting(
            "Connections that the kernel may hold before the relay accepts them.",
            why="As many as Linux allows by default (net.core.somaxconn), so that a crowd that reconnects "
            "at once waits instead of failing.",
            unit="connections",
            minimum=1,
            maximum=65_535,
        ),
    ] = 4096
    control_socket: Annotated[
        str,
        Setting(
            "Unix socket for the commands of this machine's operator, open to the relay's own user only; each member "
            "needs its own.",
            why="Beside the store it is found by whoever may read the store, and by nobody else.",
            empty="the active member's, beside the SQLite file, with .sock added; none for postgresql and memory",
        ),
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where messages wait."""

    url: Annotated[
        str,
        Setting(
            "The store: a SQLite file on a local disk, a PostgreSQL database, or memory: to keep nothing.",
            why="A file beside the process keeps messages through a crash and a power cut without any set-up.",
            form=STORE_URL,
            secret=True,
            flag="--store",
        ),
    ] = "sqlite:///posthouse.db"
    busy_timeout_ms: Annotated[
        int,
        Setting(
            "How long a statement waits for another process that has the file locked, such as a backup.",
            why="Backups hold the lock for milliseconds; a lock held longer than this is a fault worth reporting.",
            unit="ms",
            minimum=0,
            maximum=60_000,
        ),
    ] = 2000
    commit_timeout_s: Annotated[
        float,
        Setting(
            "A commit that takes longer than this makes the store count as unavailable until it ends.",
            why="Disks under pressure stall for seconds; a sender should take its other route before it gives up.",
            unit="s",
            minimum=0.1,
            maximum=600,
        ),
    ] = 10.0
    backlog_page_rows: Annotated[
        int,
        Setting(
            "Messages read from the store at a time for one reader's backlog.",
            why="As many as the default window lets out: one read fills it, and a page of small messages "
            "stays below the outbound limit.",
            unit="rows",
            minimum=1,
            maximum=65_536,
        ),
    ] = 256
    min_free_bytes: Annotated[
        int,
        Setting(
            "Below this much free space on the store's disk new messages are refused; acks still go through.",
            why="SQLite needs room for its write-ahead log to delete anything at all.",
            unit="bytes",
            minimum=0,
            zero="no such floor",
        ),
    ] = 64 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """How members that share a store agree on which of them is active, and how soon another takes over."""

    kind: Annotated[
        Literal["auto", "none", "file", "store", "kubernetes"],
        Setting(
            "none: this process alone; file: a lock beside the SQLite file; store: a timed row in the store; "
            "kubernetes: a Lease of the cluster; auto: kubernetes where pod.name is set, else file for sqlite, "
            "store for postgresql, none for memory.",
            why="Members on one store are told apart without anybody having thought of it.",
            flag="--lease",
        ),
    ] = "auto"
    name: Annotated[
        str,
        Setting(
            "Name of the Lease in Kubernetes, in the namespace of the pod; the members of one relay share it.",
            why="One relay in a namespace needs no other; two do.",
            form=OBJECT_NAME,
        ),
    ] = "posthouse"
    duration_s: Annotated[
        float,
        Setting(
            "A lease that nobody has renewed for this long may be claimed by another member.",
            why="The longest gap when the active member hangs; one that ends is noticed at once.",
            unit="s",
            minimum=0.5,
            maximum=600,
        ),
    ] = 5.0
    deadline_s: Annotated[
        float,
        Setting(
            "The active member is in doubt this long after it sent the last renewal that succeeded.",
            why="Well below the duration, so that clocks of slightly different rates do no harm.",
            unit="s",
            minimum=0.3,
            maximum=600,
        ),
    ] = 3.0
    renew_s: Annotated[
        float,
        Setting(
            "How often the active member renews its lease.",
            why="Often enough that a renewal that fails can be tried again before the deadline.",
            unit="s",
            minimum=0.05,
            maximum=300,
        ),
    ] = 1.0
    request_timeout_s: Annotated[
        float,
        Setting(
            "A request to the lease that has no answer for this long has failed.",
            why="Together with lease.renew_s below the deadline.",
            unit="s",
            minimum=0.05,
            maximum=300,
        ),
    ] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where the other members of this relay reach this one. Clients have no business there."""

    listen: Annotated[
        str,
        Setting(
            "Address for the links of other members: a Unix socket on one machine, or a port with mutual TLS.",
            why="Members on one machine need nothing set up; between machines nobody but a member may link.",
            empty="a Unix socket beside the SQLite file (in a folder of its own where everybody can write there), or "
            "for postgresql in the user's runtime folder; with certificates 0.0.0.0:8081",
            form=PEER_ADDRESS,
            flag="--peer-listen",
        ),
    ] = ""
    address: Annotated[
        str,
        Setting(
            "Address that other members are told to dial.",
            why="Only needed where this member cannot know it: it listens everywhere, and its host's name "
            "leads others elsewhere.",
            empty="where it listens, with pod.ip or the host's name in place of 0.0.0.0",
            form=PEER_ADDRESS,
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Setting(
            "File with this member's certificate chain (PEM) for links over TCP; read again when it changes.",
            why="Links carry messages and acks: whoever can make one is believed.",
            empty="no links over TCP",
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Setting(
            "File with the private key (PEM) of peer.tls_cert, without a passphrase.",
            why="As for peer.tls_cert.",
            empty="no links over TCP",
        ),
    ] = ""
    tls_ca: Annotated[
        str,
        Setting(
            "File with the certificates (PEM) of the authorities that sign for members; any of them will do.",
            why="Two are accepted while one takes the place of the other.",
            empty="no links over TCP",
        ),
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """The Kubernetes pod that this member runs in, as its manifest tells it (the downward API)."""

    name: Annotated[
        str,
        Setting(
            "Name of the pod.",
            why="Members are known by it, and it says that there is a Kubernetes to ask for a Lease.",
            empty="not in a pod",
        ),
    ] = ""
    uid: Annotated[
        str,
        Setting(
            "UID of the pod.",
            why="A pod that comes after another of the same name is not that one.",
            empty="it is not compared, and the end of a container is not taken as a proof",
        ),
    ] = ""
    namespace: Annotated[
        str,
        Setting(
            "Namespace of the pod, of the Lease and of the events.",
            why="A service account's own files tell it too.",
            empty="that of the service account",
        ),
    ] = ""
    ip: Annotated[
        str,
        Setting(
            "Address of the pod, at which other members dial it.",
            why="Unlike a name it needs no DNS, and a refused connection to it is the end of this very pod's process.",
            empty="the host's name is dialed",
        ),
    ] = ""
    container: Annotated[
        str,
        Setting(
            "Name of the relay's container within the pod.",
            why="A pod may have others beside it.",
        ),
    ] = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anonymous:
    """What connections that prove no key may do."""

    enabled: Annotated[
        bool,
        Setting(
            "Whether a hello without a key is welcome; false answers it auth-required.",
            why="A sender gains nothing by proving who it is, and loses some privacy.",
        ),
    ] = True
    publish: Annotated[
        bool,
        Setting("Whether they may send messages.", why="Most senders have no other reason to connect."),
    ] = True
    read_buckets: Annotated[
        bool,
        Setting(
            "Whether they may read buckets. Nobody reads an address without its key, whatever this says.",
            why="A bucket hides which address its reader owns only if no key is asked for.",
        ),
    ] = True
    max_publish_per_s: Annotated[
        float,
        Setting(
            "Messages that one anonymous connection may send a second; more are rejected rate-limited.",
            why="Quotas bound what is kept; a rate is for relays that have met abuse.",
            unit="messages/s",
            minimum=0.001,
            maximum=1e9,
            zero="no such limit",
        ),
    ] = 0.0
    buckets_per_connection: Annotated[
        int,
        Setting(
            "Buckets that one anonymous connection may read.",
            why="A device has one address, which is in two buckets; twice that leaves room for a second.",
            unit="names",
            minimum=0,
            maximum=65_536,
        ),
    ] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """Clients that speak the OpenBazaar web relay's dialect: whether they are served, and what they may do."""

    enabled: Annotated[
        bool,
        Setting(
            "Serve connections that offer no subprotocol in the legacy dialect; false refuses them with HTTP 400.",
            why="Such clients are in the field and will not be updated.",
        ),
    ] = True
    publish: Annotated[
        bool,
        Setting(
            "Whether legacy connections may send messages. The dialect has no way to say no: theirs are dropped.",
            why="It is half of what they come for.",
        ),
    ] = True
    read_buckets: Annotated[
        bool,
        Setting(
            "Whether legacy connections are sent the messages of their bucket.",
            why="It is the other half.",
        ),
    ] = True
    max_publish_per_s: Annotated[
        float,
        Setting(
            "Messages that one legacy connection may send a second; the rest are dropped.",
            why="Quotas bound what is kept; a rate is for relays that have met abuse.",
            unit="messages/s",
            minimum=0.001,
            maximum=1e9,
            zero="no such limit",
        ),
    ] = 0.0
    backlog_limit: Annotated[
        int,
        Setting(
            "The newest so many messages of its bucket are sent to a legacy connection, oldest of them first.",
            why="These readers have no window and get it again on each connect: it must stay bounded "
            "and small enough for a phone.",
            unit="messages",
            minimum=0,
            maximum=1_000_000,
            zero="no backlog",
        ),
    ] = 1000
    hello_timeout_s: Annotated[
        float,
        Setting(
            "A legacy connection that sends nothing for this long after its opening is closed.",
            why="The original relay's limit (docs/protocol.md 3, row 6).",
            unit="s",
            minimum=0.1,
            maximum=3600,
        ),
    ] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the relay writes to standard error. Never a payload, never a key."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Setting(
            "Least important lines that are written.",
            why="One line for each event that a person may want.",
            flag="--log-level",
        ),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Setting(
            "json: one object a line; console: for reading; auto: console on a terminal, else json.",
            why="Whoever looks gets the form they can read.",
            flag="--log-format",
        ),
    ] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Made by `load`; the sections' own defaults make a usable one too."""

    server: Server = field(default_factory=Server)
    store: Store = field(default_factory=Store)
    lease: Lease = field(default_factory=Lease)
    peer: Peer = field(default_factory=Peer)
    pod: Pod = field(default_factory=Pod)
    limits: Limits = field(default_factory=Limits)
    quota: Quota = field(default_factory=Quota)
    anonymous: Anonymous = field(default_factory=Anonymous)
    legacy: Legacy = field(default_factory=Legacy)
    commit: Commit = field(default_factory=Commit)
    log: Log = field(default_factory=Log)

    @property
    def shown_store(self) -> str:
        """The store's URL without what looks like a password."""
        return hidden_password(self.store.url)

    @property
    def lease_kind(self) -> Literal["none", "file", "store", "kubernetes"]:
        """The kind of lease, where the setting leaves it open too."""
        kind = self.lease.kind
        if kind != "auto":
            return kind
        if self.pod.name:
            return "kubernetes"
        if self.sqlite_path is not None:
            return "file"
        return "none" if self.store.url == "memory:" else "store"

    @property
    def longest_stop_s(self) -> float:
        """How long a stop takes at most, also with a store that hangs: what the relay's supervisor has to allow.

        A store that goes on and then hangs once more is not counted.
        """
        hand_over_s = self.store.commit_timeout_s + self.lease.deadline_s + HAND_OVER_PATIENCE_S
        return max(self.server.linger_s, hand_over_s) + self.server.drain_s + PARTING_PATIENCE_S

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file, relative to where the relay runs unless its URL has four slashes; else None."""
        prefix = "sqlite:///"
        return (
            Path(unquote(self.store.url.removeprefix(prefix))) if self.store.url.startswith(prefix) else None
        )

    @property
    def control_socket_path(self) -> Path | None:
        """Where the control socket is: as set, else beside the SQLite file; None if it has no place."""
        if self.server.control_socket:
            return Path(self.server.control_socket)
        path = self.sqlite_path
        return path.with_name(path.name + ".sock") if path else None
