"""The broker: the single writer that knows mailboxes, readers, what is in flight, and the store.

It is one object without threads, clock or I/O. Commands of sessions come in by ``handle``, effects go out by
``take_effects``; batches for the store are taken by ``next_batch`` and answered by ``committed``; questions to
the store lie in ``reads``. Whoever runs it (``posthouse.server.engine``) brings time, threads and sockets.
"""

from posthouse.broker.core import Broker
from posthouse.broker.records import Port
from posthouse.broker.settings import BrokerSettings, Quotas

__all__ = ["Broker", "BrokerSettings", "Port", "Quotas"]
