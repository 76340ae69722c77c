"""What the URL of a PostgreSQL store says: where the engine is, and which schema is the store's.

Everything that libpq understands may stand in the URL, also several hosts. ``schema`` is ours: it is taken out of the
query before libpq sees it. The password is kept out of everything that is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from posthouse.store.interface import StoreUnusable

DEFAULT_SCHEMA: Final = "posthouse"
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is. ``options`` are libpq's, with the password among them: never shown."""

    options: dict[str, str] = field(repr=False)
    schema: str

    def __str__(self) -> str:
        hosts = (self.options.get("host") or self.options.get("hostaddr") or "localhost").split(",")
        ports = self.options.get("port", "").split(",")
        ports *= len(hosts) if len(ports) == 1 else 1
        places = [f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False)]
        return f"postgresql://{','.join(places)}/{self.options.get('dbname', '')} (schema {self.schema})"


def parse(url: str) -> Address:
    """The address that a URL names. Raises StoreUnusable, without repeating anything of the URL."""
    schema = DEFAULT_SCHEMA
    try:
        parts = urlsplit(url)
        if url.count("@") > 1 or ("@" in url and "@" not in parts.netloc) or parts.fragment:
            raise ValueError("a character of the user or the password stands for itself")
        kept: list[str] = []
        for pair in parts.query.split("&"):
            name, _, value = pair.partition("=")
            if name == "schema":
                schema = value
            elif pair:
                kept.append(pair)
        found = conninfo_to_dict(urlunsplit(parts._replace(query="&".join(kept))))
    except (ValueError, ProgrammingError):
        raise StoreUnusable(
            "the URL of the store cannot be read; in a user or a password, characters such as @ : / ? # % "
            "are written as % and two hexadecimal digits"
        ) from None
    if not _SCHEMA_NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise StoreUnusable(
            "the schema of the store must be a plain name of lower-case letters, digits and _"
        )
    return Address({name: str(value) for name, value in found.items() if value is not None}, schema)
