"""The relay's settings: one annotated struct from which everything about them follows.

`load` gives a checked `Config` from a file, the environment and flags. Nothing below the command line and the server
sees a `Config`: the inner layers take plain settings of their own.
"""

from posthouse.config.forms import hidden_password, split_host_port
from posthouse.config.limits import Commit, Limits, Quota
from posthouse.config.loading import FIELDS, Resolved, load, resolve
from posthouse.config.reference import markdown, redacted, reference, shown
from posthouse.config.sections import Anonymous, Config, Lease, Legacy, Log, Server, Store
from posthouse.config.setting import Field, Setting

__all__ = [
    "FIELDS",
    "Anonymous",
    "Commit",
    "Config",
    "Field",
    "Lease",
    "Legacy",
    "Limits",
    "Log",
    "Quota",
    "Resolved",
    "Server",
    "Setting",
    "Store",
    "hidden_password",
    "load",
    "markdown",
    "redacted",
    "reference",
    "resolve",
    "shown",
    "split_host_port",
]
