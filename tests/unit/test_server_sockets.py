"""Sockets served from the selector: real sockets on a loop made by hand."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, cast

import pytest
from posthouse.server.listeners import bind
from posthouse.server.sockets import Acceptor, ServingLoop, accepting
from posthouse.server.sockets.selector import MANY, READ
from posthouse.server.sockets.transport import SocketTransport
from posthouse.server.turn import Turn

P = ParamSpec("P")
BIG = os.urandom(1 << 20)
"""More than a socket takes at once."""
needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="the relay serves sockets by epoll")


def served(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop that serves sockets, and that nothing fails in."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            reported = failures(cast(ServingLoop, runner.get_loop()))
            runner.run(asyncio.wait_for(test(*args, **kwargs), 30))
        assert not reported, "something has failed in the loop"

    return cast(Callable[P, None], needs_epoll(run))


def failures(loop: ServingLoop) -> list[BaseException | None]:
    reported: list[BaseException | None] = []
    loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
    return reported


def running() -> ServingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ServingLoop)
    return loop


class Recorder(asyncio.BufferedProtocol):
    """Notes what its transport calls, and can do something or raise while it is called."""

    def __init__(self, **doing: Callable[[], None]) -> None:
        self.buffer = memoryview(bytearray(65536))
        self.received = bytearray()
        self.called: list[str] = []
        self.lost: list[BaseException | None] = []
        self.transport: SocketTransport
        self._doing = doing

    def _note(self, name: str) -> None:
        self.called.append(name)
        if name in self._doing:
            self._doing[name]()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(SocketTransport, transport)
        self._note("connection_made")

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self._note("buffer_updated")

    def eof_received(self) -> None:
        self._note("eof_received")

    def pause_writing(self) -> None:
        self._note("pause_writing")

    def resume_writing(self) -> None:
        self._note("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self._note("connection_lost")


def connected(protocol: asyncio.BufferedProtocol) -> socket.socket:
    """Put a protocol behind one end of a pair; the other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    SocketTransport(running(), ours, "them", protocol)
    return theirs


def connected_by_tcp(protocol: asyncio.BufferedProtocol) -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, peer = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    SocketTransport(running(), ours, peer, protocol)
    return theirs


def reset(theirs: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within five seconds")


async def read(theirs: socket.socket, count: int) -> bytes:
    """So many bytes, or all there are before the end."""
    data = bytearray()
    while len(data) < count:
        more = await running().sock_recv(theirs, count - len(data))
        if not more:
            break
        data += more
    return bytes(data)


async def is_idle() -> bool:
    """Whether the loop sleeps when there is nothing to do."""
    selector = running().selector
    looks = 0
    select_ = selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal looks
        looks += 1
        return select_(timeout)

    selector.select = counted  # type: ignore[method-assign]
    try:
        await asyncio.sleep(0.1)
    finally:
        selector.select = select_  # type: ignore[method-assign]
    return looks < 10


# --- transports


@served
async def test_what_the_socket_does_not_take_follows_in_order_and_writing_goes_on() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    assert one.called == ["connection_made", "pause_writing"]
    assert 0 < one.transport.get_write_buffer_size() < len(BIG)
    one.transport.write(b"tail")
    assert await is_idle()
    assert await read(theirs, len(BIG) + 4) == BIG + b"tail"
    await until(lambda: "resume_writing" in one.called)
    assert one.called == ["connection_made", "pause_writing", "resume_writing"]
    assert one.transport.get_write_buffer_size() == 0
    assert await is_idle()
    theirs.send(b"still heard")
    await until(lambda: one.received == b"still heard")
    one.transport.abort()
    theirs.close()


@served
async def test_a_protocol_that_does_not_read_is_heard_while_its_bytes_wait() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    theirs.send(b"ack")
    await until(lambda: one.received == b"ack")
    assert one.transport.get_write_buffer_size() > 0
    one.transport.abort()
    theirs.close()


@served
async def test_the_end_of_writing_comes_behind_unsent_bytes_and_reading_goes_on() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    one.transport.write_eof()
    one.transport.write_eof()
    with pytest.raises(RuntimeError):
        one.transport.write(b"behind the end")
    assert await read(theirs, len(BIG) + 1) == BIG
    theirs.send(b"still heard")
    await until(lambda: one.received == b"still heard")
    assert await is_idle()
    assert one.lost == []
    theirs.close()
    await until(lambda: one.lost)
    assert one.lost == [None]
    assert one.called[-2:] == ["eof_received", "connection_lost"]


@served
async def test_a_protocol_may_write_and_end_when_writing_resumes() -> None:
    def say_more() -> None:
        if one.called.count("resume_writing") == 1:
            one.transport.write(BIG)
        else:
            one.transport.write(b"last")
            one.transport.write_eof()

    one = Recorder(resume_writing=say_more)
    theirs = connected(one)
    one.transport.write(BIG)
    assert await read(theirs, 2 * len(BIG) + 5) == BIG + BIG + b"last"
    assert one.called.count("pause_writing") == one.called.count("resume_writing") == 2
    assert one.lost == []
    theirs.close()
    await until(lambda: one.lost)


@served
async def test_a_protocol_may_end_when_writing_pauses() -> None:
    def end() -> None:
        one.transport.abort()

    one = Recorder(pause_writing=end)
    theirs = connected(one)
    one.transport.write(BIG)
    assert one.transport.get_write_buffer_size() == 0
    await until(lambda: one.lost)
    assert one.lost == [None]
    theirs.close()


@served
async def test_closing_sends_what_waits_and_reads_no_more() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    one.transport.close()
    one.transport.close()
    assert one.transport.is_closing()
    theirs.send(b"too late")
    assert await is_idle()
    assert one.lost == []
    with pytest.raises(ConnectionResetError):  # of a pair that has unread bytes, behind what was sent
        assert await read(theirs, len(BIG)) == BIG
        await read(theirs, 1)
    await until(lambda: one.lost)
    assert one.lost == [None]
    assert one.received == b""
    theirs.close()


@served
async def test_closing_sends_what_is_written_when_writing_resumes_too() -> None:
    def say_more() -> None:
        if one.called.count("resume_writing") == 1:
            one.transport.write(BIG)

    one = Recorder(resume_writing=say_more)
    theirs = connected(one)
    one.transport.write(BIG)
    one.transport.close()
    assert await read(theirs, 2 * len(BIG) + 1) == BIG + BIG
    await until(lambda: one.lost)
    assert one.lost == [None]
    theirs.close()


@served
async def test_a_protocol_that_has_closed_hears_nothing_when_the_peer_hangs_up() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    one.transport.close()
    theirs.send(b"too late")
    theirs.close()
    await until(lambda: one.lost)
    assert isinstance(one.lost[0], OSError)
    assert one.received == b""


@served
async def test_aborting_drops_what_waits_and_is_told_once() -> None:
    one = Recorder()
    theirs = connected(one)
    sock = one.transport.get_extra_info("socket")
    one.transport.write(BIG)
    one.transport.abort()
    one.transport.abort()
    one.transport.close()
    one.transport.write(b"nobody reads this")
    one.transport.write_eof()
    assert one.lost == []  # later, because the protocol may be the caller
    await until(lambda: one.lost)
    await asyncio.sleep(0.01)
    assert one.lost == [None]
    assert sock.fileno() == -1
    assert len(await read(theirs, len(BIG))) < len(BIG)
    theirs.close()


@served
async def test_a_reset_is_seen_while_reading() -> None:
    one = Recorder()
    reset(connected_by_tcp(one))
    await until(lambda: one.lost)
    assert [type(error) for error in one.lost] == [ConnectionResetError]
    assert one.called == ["connection_made", "connection_lost"]


@served
async def test_a_reset_is_seen_by_a_write() -> None:
    one = Recorder()
    theirs = connected_by_tcp(one)
    reset(theirs)
    one.transport.write(b"before anybody has looked")
    one.transport.write(b"and again")
    await until(lambda: one.lost)
    assert [type(error) for error in one.lost] == [ConnectionResetError]


@served
@pytest.mark.parametrize("closing", [False, True])
async def test_a_reset_is_seen_while_bytes_wait(closing: bool) -> None:
    one = Recorder()
    theirs = connected_by_tcp(one)
    while not one.transport.get_write_buffer_size():
        one.transport.write(BIG)
    if closing:
        one.transport.close()
    reset(theirs)
    await until(lambda: one.lost)
    assert len(one.lost) == 1
    assert isinstance(one.lost[0], OSError)
    assert "resume_writing" not in one.called
    assert await is_idle()


@served
async def test_a_peer_that_ends_while_bytes_wait_gets_them() -> None:
    one = Recorder()
    theirs = connected(one)
    one.transport.write(BIG)
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: "eof_received" in one.called)
    assert await is_idle()
    assert await read(theirs, len(BIG) + 1) == BIG
    await until(lambda: one.lost)
    assert one.called.count("eof_received") == 1
    theirs.close()


@needs_epoll
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize(
    "where", ["connection_made", "buffer_updated", "eof_received", "resume_writing", "connection_lost"]
)
def test_a_protocol_that_raises_takes_no_other_connection_with_it(
    where: str, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error

    async def main() -> None:
        bad, good = Recorder(**{where: fail}), Recorder()
        theirs = connected(bad)
        others = connected(good)
        if where == "resume_writing":
            bad.transport.write(BIG)
            assert await read(theirs, len(BIG)) == BIG
        elif where != "connection_made":
            theirs.send(b"x")
            theirs.shutdown(socket.SHUT_WR)
        others.send(b"hello")
        await until(lambda: good.received == b"hello" and bad.lost)
        assert len(bad.lost) == 1
        assert good.lost == []
        good.transport.write(b"answer")
        assert await read(others, 6) == b"answer"
        good.transport.abort()
        theirs.close()
        others.close()

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        reported = failures(cast(ServingLoop, runner.get_loop()))
        runner.run(main())
    assert [type(one) for one in reported] == [error]


@needs_epoll
def test_a_protocol_that_raises_when_writing_pauses_is_no_matter_of_the_writer() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        one = Recorder(pause_writing=fail)
        theirs = connected(one)
        one.transport.write(BIG)
        await until(lambda: one.lost)
        assert len(one.lost) == 1
        theirs.close()

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        reported = failures(cast(ServingLoop, runner.get_loop()))
        runner.run(main())
    assert [type(one) for one in reported] == [ZeroDivisionError]


@served
async def test_a_connection_is_freed_without_the_cycle_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        one = Recorder()
        reset(connected_by_tcp(one))
        lost = one.lost
        # It knows its transport, which knows the buffer.
        protocol, buffer = weakref.ref(one), weakref.ref(one.buffer)
        del one
        await until(lambda: lost)
        lost.clear()
        await asyncio.sleep(0.01)
        assert protocol() is None
        assert buffer() is None
    finally:
        gc.enable()


# --- the selector


@served
async def test_something_that_always_fails_keeps_nothing_from_those_behind_it() -> None:
    class Bad:
        failures = 0

        def ready(self, events: int) -> None:
            raise ZeroDivisionError

        def failed(self, error: BaseException) -> None:
            self.failures += 1

    ours, theirs = socket.socketpair()
    selector, bad, good = running().selector, Bad(), Recorder()
    selector.serve(ours.fileno(), bad, READ)
    theirs.send(b"x")
    others = connected(good)
    others.send(b"hello")
    await until(lambda: good.received == b"hello")
    assert bad.failures > 0
    selector.leave(ours.fileno())
    assert await is_idle()
    good.transport.abort()
    for sock in (ours, theirs, others):
        sock.close()


@served
async def test_a_connection_ended_by_another_of_the_same_look_hears_nothing_more() -> None:
    protocols: list[Recorder] = []

    def end_the_others() -> None:
        for one in protocols:
            if not one.received:
                one.transport.abort()

    protocols += [Recorder(buffer_updated=end_the_others) for _ in range(5)]
    ends = [connected(one) for one in protocols]
    for theirs in ends:
        theirs.send(b"x")
    await until(lambda: sum(len(one.lost) for one in protocols) == 4)
    assert sum(len(one.received) for one in protocols) == 1
    protocols[0].transport.abort()
    for theirs in ends:
        theirs.close()


@served
async def test_readers_and_writers_of_asyncio_work_beside_by_number_and_by_socket() -> None:
    loop = running()
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def once(file: socket.socket | int) -> None:
        seen.append(ours.recv(10).decode())
        assert loop.remove_reader(file)

    for file in (ours, ours.fileno()):
        seen.clear()
        loop.add_reader(file, seen.append, "read")
        loop.add_writer(file, seen.append, "write")
        await until(lambda: "write" in seen)
        assert "read" not in seen
        assert loop.remove_writer(file)
        assert not loop.remove_writer(file)
        seen.clear()
        assert await is_idle()

        loop.add_reader(file, once, file)  # instead of the first one
        theirs.send(b"hello")
        await until(lambda: seen)
        theirs.send(b"more")
        await asyncio.sleep(0.02)
        assert seen == ["hello"]
        assert not loop.remove_reader(file)
        assert ours.recv(10) == b"more"
    ours.close()
    theirs.close()


@served
async def test_streams_threads_and_signals_of_asyncio_work_beside() -> None:
    loop = running()
    one = Recorder()
    theirs = connected(one)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    theirs.send(b"hello")
    writer.write(BIG)
    writer.write_eof()
    assert await reader.read() == BIG
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert one.received == b"hello"

    assert await asyncio.to_thread(lambda: 7) == 7
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    loop.remove_signal_handler(signal.SIGUSR1)
    one.transport.abort()
    theirs.close()


@needs_epoll
def test_a_loop_closes_its_descriptors_and_lets_go_of_what_it_served() -> None:
    before = os.listdir("/proc/self/fd")
    loop = ServingLoop()

    async def main() -> tuple[socket.socket, weakref.ref[Recorder]]:
        one = Recorder()
        return connected(one), weakref.ref(one)

    theirs, served_once = loop.run_until_complete(main())
    protocol = served_once()
    assert protocol is not None
    sock = protocol.transport.get_extra_info("socket")
    loop.close()
    loop.close()
    assert len(gc.get_referrers(protocol.transport)) == 1  # the protocol
    sock.close()
    theirs.close()
    assert os.listdir("/proc/self/fd") == before


def test_this_can_be_imported_where_there_is_no_epoll() -> None:
    program = """
import select
for name in dir(select):
    if name.lower().startswith("epoll"):
        delattr(select, name)
import asyncio
from posthouse.server.sockets import Acceptor, ServingLoop, new_event_loop
loop = new_event_loop()
assert not isinstance(loop, ServingLoop)
loop.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- turns


def turning() -> tuple[Turn, list[str]]:
    """The turns of the loop, and a list of what the selector says of them."""
    loop = running()
    turn, said = Turn(loop), list[str]()

    def before() -> None:
        said.append("before")
        turn.begin()

    def after() -> None:
        said.append("after")
        turn.finish()

    loop.selector.before, loop.selector.after = before, after
    return turn, said


@served
@pytest.mark.parametrize("count", [MANY // 2, 3 * MANY])
async def test_a_look_has_one_end_and_nothing_is_left_waiting(count: int) -> None:
    turn, said = turning()
    ended: list[int] = []
    heard: list[Recorder] = []

    def hear(number: int) -> Callable[[], None]:
        def note() -> None:
            heard.append(protocols[number])
            turn.at_end(lambda: ended.append(len(heard)))

        return note

    protocols = [Recorder(buffer_updated=hear(number)) for number in range(count)]
    ends = [connected(one) for one in protocols]
    done = running().create_future()
    turn.last = lambda: None if done.done() or len(ended) < count else done.set_result(None)
    said.clear()
    for theirs in ends:
        theirs.send(b"x")
    start = running().time()
    await done
    assert running().time() - start < 15  # nothing else wakes the loop, but for the timer that ends this test
    assert ended == [count] * count
    assert said == ["before", "after"]
    for theirs, one in zip(ends, protocols, strict=True):
        one.transport.abort()
        theirs.close()


@served
async def test_what_comes_between_a_look_and_its_deferred_end_is_in_it() -> None:
    turn, said = turning()
    order: list[str] = []
    loop = running()
    done = loop.create_future()

    def between() -> None:
        assert said == ["before"]
        turn.at_end(lambda: order.append("between"))
        turn.at_end(lambda: done.set_result(None))

    def hear() -> None:
        if not order:
            order.append("heard")
            turn.at_end(lambda: order.append("end"))
            loop.call_soon_threadsafe(between)

    protocols = [Recorder(buffer_updated=hear) for _ in range(2 * MANY)]
    ends = [connected(one) for one in protocols]
    # Asked for before the look; the look's own end does it, once.
    turn.at_end(lambda: order.append("asked"))
    order.clear()
    said.clear()
    for theirs in ends:
        theirs.send(b"x")
    async with asyncio.timeout(5):
        await done
    assert order == ["heard", "asked", "end", "between"] or order == ["asked", "heard", "end", "between"]
    for theirs, one in zip(ends, protocols, strict=True):
        one.transport.abort()
        theirs.close()


@needs_epoll
def test_a_turn_that_an_exit_has_left_is_ended_when_the_loop_runs_again() -> None:
    loop = ServingLoop()
    ended: list[bool] = []

    async def begin() -> tuple[Recorder, socket.socket]:
        turn, _ = turning()

        def leave() -> None:
            turn.at_end(lambda: ended.append(True))
            raise KeyboardInterrupt

        one = Recorder(buffer_updated=leave)
        return one, connected(one)

    one, theirs = loop.run_until_complete(begin())
    theirs.send(b"x")
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(1))
    assert ended == []

    async def end() -> None:
        await until(lambda: ended)
        one.transport.abort()
        await until(lambda: one.lost)

    loop.run_until_complete(end())
    assert ended == [True]
    theirs.close()
    loop.close()


# --- accepting


def listening(
    new_protocol: Callable[[], asyncio.BufferedProtocol], most_a_turn: int = 10
) -> tuple[Acceptor, Any]:
    (listener,) = bind("127.0.0.1:0", backlog=100)
    return Acceptor(running(), listener, new_protocol, most_a_turn), listener.getsockname()


@served
async def test_a_crowd_is_accepted_a_few_a_turn() -> None:
    protocols: list[Recorder] = []
    a_turn: list[int] = []

    def new() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    acceptor, address = listening(new, most_a_turn=3)
    running().selector.after = lambda: a_turn.append(len(protocols))
    clients = [socket.create_connection(address) for _ in range(10)]
    await until(lambda: len(protocols) == 10)
    assert a_turn == [3, 6, 9, 10]
    assert await is_idle()
    for client in clients:
        client.send(b"hello")
    await until(lambda: all(one.received == b"hello" for one in protocols))
    names = [one.transport.get_extra_info("peername") for one in protocols]
    assert sorted(names) == sorted(client.getsockname() for client in clients)
    acceptor.close()
    acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for client in clients:
        client.close()
    await until(lambda: all(one.lost for one in protocols))


@served
async def test_without_room_accepting_pauses_and_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PAUSE_S", 0.3)
    protocols: list[Recorder] = []

    def new() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    acceptor, address = listening(new)
    one = Recorder()
    theirs = connected(one)
    client = socket.create_connection(address)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError) as full:
            os.dup(0)
        assert full.value.errno == errno.EMFILE
        await asyncio.sleep(0.05)
        assert await is_idle()
        theirs.send(b"hello")
        await until(lambda: one.received == b"hello")
        assert protocols == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    client.send(b"hello")
    await until(lambda: protocols and protocols[0].received == b"hello")
    acceptor.close()
    client.close()
    theirs.close()
    await until(lambda: one.lost and protocols[0].lost)


@served
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EPERM])
async def test_whatever_keeps_it_from_accepting_it_can_be_closed_meanwhile(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "PAUSE_S", 0.2)

    class Refusing(socket.socket):
        asked = 0

        def accept(self) -> Any:
            self.asked += 1
            raise OSError(number, os.strerror(number))

    (bound,) = bind("127.0.0.1:0", backlog=100)
    listener = Refusing(fileno=bound.detach())
    listener.setblocking(False)
    acceptor = Acceptor(running(), listener, Recorder, 10)
    client = socket.create_connection(listener.getsockname())
    await until(lambda: listener.asked == 1)
    assert await is_idle()
    await until(lambda: listener.asked == 2)
    acceptor.close()
    assert listener.fileno() == -1
    await asyncio.sleep(0.3)
    assert listener.asked == 2
    client.close()


@served
async def test_accepting_may_be_ended_by_a_connection_that_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "PAUSE_S", 0.01)

    def end() -> None:
        acceptor.close()

    one = Recorder(connection_made=end)
    acceptor, address = listening(lambda: one)
    client, late = socket.create_connection(address), socket.create_connection(address)
    client.send(b"hello")
    await until(lambda: one.received == b"hello")
    assert await is_idle()
    client.close()
    late.close()
    await until(lambda: one.lost)


@needs_epoll
def test_a_connection_that_cannot_begin_is_closed_and_the_next_one_begins() -> None:
    protocols: list[Recorder] = []

    def new() -> Recorder:
        protocols.append(Recorder())
        if len(protocols) == 1:
            raise ZeroDivisionError
        return protocols[-1]

    async def main() -> None:
        acceptor, address = listening(new)
        clients = [socket.create_connection(address) for _ in range(2)]
        for client in clients:
            client.setblocking(False)
        assert await read(clients[0], 1) == b""
        clients[1].send(b"hello")
        await until(lambda: len(protocols) == 2 and protocols[1].received == b"hello")
        acceptor.close()
        for client in clients:
            client.close()
        await until(lambda: protocols[1].lost)

    with asyncio.Runner(loop_factory=ServingLoop) as runner:
        reported = failures(cast(ServingLoop, runner.get_loop()))
        runner.run(main())
        # What was reported keeps the frames in which it happened: the socket must be closed, not only forgotten.
    assert [type(one) for one in reported] == [ZeroDivisionError]
