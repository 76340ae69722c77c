"""The fronts of other members at a broker: one attachment for each member, the newer ends the older."""

from __future__ import annotations

from posthouse.broker import Port
from posthouse.exchange import Effects
from posthouse.link import frames
from sim_engine import SimEngine
from sim_link import Link


class Attachments:
    """The links that have come to one process."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._engine: SimEngine | None = None
        self._ports: dict[str, tuple[Link, Port]] = {}

    def serve(self, engine: SimEngine | None) -> None:
        """A broker has begun, or ends: its last words, and tell all."""
        if self._engine is not None:
            for link, port in self._ports.values():
                self._send(self._engine, link, port, self._engine.farewell(port))
        self._engine = engine
        self._ports.clear()
        for link in self._links:
            self._tell(link)

    def received(self, link: Link, frame: frames.Frame) -> None:
        """A front says something."""
        if isinstance(frame, frames.Hello):
            self._links.append(link)
            self._tell(link)
        elif isinstance(frame, frames.Commands):
            engine = self._engine
            if engine is not None and frame.epoch == engine.epoch:
                port = self.port_of(engine, link)
                if port is not None:
                    engine.submit(port, frame.batch)

    def cut(self, link: Link) -> None:
        """A link is lost."""
        if link in self._links:
            self._links.remove(link)
        attached = self._ports.get(link.member)
        if attached is not None and attached[0] is link and self._engine is not None:
            del self._ports[link.member]
            self._engine.close_port(attached[1])

    def port_of(self, engine: SimEngine, link: Link) -> Port | None:
        """Where the sessions of this attachment are; None: it has been replaced by a newer one."""
        attached = self._ports.get(link.member)
        if attached is not None:
            older, port = attached
            if older is link:
                return port
            if older.generation > link.generation:
                return None
            engine.close_port(port)
        return self._open(engine, link)

    def _open(self, engine: SimEngine, link: Link) -> Port:
        def wake() -> None:
            self._send(engine, link, port, engine.take_effects(port))

        port = engine.open_port(wake)
        self._ports[link.member] = link, port
        return port

    @staticmethod
    def _send(engine: SimEngine, link: Link, port: Port, effects: Effects) -> None:
        if effects:
            link.listener.send(frames.Effects(engine.epoch, effects, engine.broker.confirmed(port)))

    def _tell(self, link: Link) -> None:
        engine = self._engine
        epoch = engine.epoch if engine is not None else 0
        link.listener.send(frames.Standing(engine is not None, epoch, [], None))
