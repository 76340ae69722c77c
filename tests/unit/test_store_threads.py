"""The two threads of a store: every piece of work is answered once, and none of them ends a thread."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, current_thread

import pytest
from posthouse.store.interface import Reader, StoreUnavailable, StoreUnusable, Writer
from posthouse.store.memory import MemoryReader, MemoryStore, MemoryWriter
from posthouse.store.threads import StoreThreads

TIMEOUT_S = 10


class ObservedWriter(MemoryWriter):
    def __init__(self, store: "ObservedStore") -> None:
        super().__init__(store._state)
        self.store = store

    def tidy(self) -> None:
        self.store.events.append("tidy")
        if self.store.tidying_fails is not None:
            raise self.store.tidying_fails

    def close(self) -> None:
        self.store.events.append("writer closed")


class ObservedReader(MemoryReader):
    def __init__(self, store: "ObservedStore") -> None:
        super().__init__(store._state)
        self.store = store

    def close(self) -> None:
        self.store.events.append("reader closed")


class ObservedStore(MemoryStore):
    """Notes what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.tidying_fails: Exception | None = None
        self.reading_fails = False

    def open_writer(self) -> ObservedWriter:
        return ObservedWriter(self)

    def open_reader(self) -> ObservedReader:
        if self.reading_fails:
            raise StoreUnusable("no")
        return ObservedReader(self)


class Asking:
    """Threads of a store, and the answers as they were delivered."""

    def __init__(self, store: ObservedStore) -> None:
        self.delivered: SimpleQueue[tuple[Callable[[object], object], object]] = SimpleQueue()
        self.answers: list[object] = []
        self.threads = StoreThreads(store, lambda call, argument: self.delivered.put((call, argument)))

    def take(self) -> object:
        """Run the next delivery here, as a loop would."""
        call, argument = self.delivered.get(timeout=TIMEOUT_S)
        call(argument)
        return self.answers[-1]


@pytest.fixture
def store() -> ObservedStore:
    return ObservedStore()


def test_answers_come_in_the_order_of_the_questions_through_deliver(store: ObservedStore) -> None:
    asking = Asking(store)
    for number in range(5):
        asking.threads.submit_write(lambda writer, number=number: number, asking.answers.append)  # type: ignore[misc]
    assert [asking.take() for _ in range(5)] == [0, 1, 2, 3, 4]
    asking.threads.close()


def test_reading_does_not_wait_for_writing(store: ObservedStore) -> None:
    asking = Asking(store)
    hold = Event()

    def slow(writer: Writer) -> str:
        assert hold.wait(TIMEOUT_S)
        return "written"

    def where(reader: Reader) -> str:
        return current_thread().name

    asking.threads.submit_write(slow, asking.answers.append)
    asking.threads.submit_read(where, asking.answers.append)
    assert asking.take() == "store-reader"
    hold.set()
    assert asking.take() == "written"
    asking.threads.close()


def test_what_work_raises_is_its_answer_and_the_thread_goes_on(store: ObservedStore) -> None:
    asking = Asking(store)

    def fail(connection: object) -> None:
        raise StoreUnavailable("full")

    def defect(connection: object) -> None:
        raise KeyError("missing")

    for submit in (asking.threads.submit_write, asking.threads.submit_read):
        submit(fail, asking.answers.append)
        submit(defect, asking.answers.append)
        submit(lambda connection: "fine", asking.answers.append)
        assert isinstance(asking.take(), StoreUnavailable)
        assert isinstance(asking.take(), KeyError)
        assert asking.take() == "fine"
    asking.threads.close()


def test_after_every_write_it_tidies_up_with_the_answer_on_its_way(store: ObservedStore) -> None:
    asking = Asking(store)
    for failure in (None, StoreUnavailable("full"), RuntimeError("defect")):
        store.tidying_fails = failure
        asking.threads.submit_write(lambda writer: len(store.events), asking.answers.append)
        asking.take()
    asking.threads.close()
    assert asking.answers == [0, 1, 2]
    assert store.events[:3] == ["tidy"] * 3


def test_closing_waits_for_what_was_submitted(store: ObservedStore) -> None:
    asking = Asking(store)
    begun, hold = Event(), Event()

    def slow(writer: Writer) -> str:
        begun.set()
        assert hold.wait(TIMEOUT_S)
        return "done"

    asking.threads.submit_write(slow, asking.answers.append)
    asking.threads.submit_write(lambda writer: "after", asking.answers.append)
    assert begun.wait(TIMEOUT_S)
    hold.set()
    asking.threads.close()
    assert [asking.take(), asking.take()] == ["done", "after"]
    assert set(store.events) == {"tidy", "writer closed", "reader closed"}


def test_an_answer_after_the_loop_has_ended_is_dropped(store: ObservedStore) -> None:
    def closed(call: Callable[[object], object], argument: object) -> None:
        raise RuntimeError("Event loop is closed")

    threads = StoreThreads(store, closed)
    threads.submit_write(lambda writer: 1, lambda answer: None)
    threads.close()
    assert "writer closed" in store.events


def test_a_store_that_cannot_be_read_is_closed_again(store: ObservedStore) -> None:
    store.reading_fails = True
    with pytest.raises(StoreUnusable):
        Asking(store)
    assert store.events == ["writer closed"]
