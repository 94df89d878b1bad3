"""Working through tasks in several threads, each with one intra-op thread and memory of its own."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from initconf.errors import ApplyError, Problem
from initconf.sampling import Source

VARIABLE = "INITCONF_THREADS"
# set_num_threads writes a default of the whole process, which is put back after the workers are gone; two that write at once
# would put back each other's.
_one_at_a_time = threading.RLock()
_unended: list[threading.Event] = []
"""The ends of threads that nobody waited for, since a second Ctrl-C came meanwhile."""
_here = threading.local()
"""Whether this thread is one of a crew."""


def _forked() -> None:
    """Of the threads of a process its fork has one; what another one held would be held for ever."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()
    _unended.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


@dataclass(frozen=True, slots=True)
class Task:
    """Some elements to be written, which depend on nothing that another task does."""

    work: Callable[[Source], Any]
    size: int
    entries: tuple[int, ...]
    """The places in the plan of the parameters that it writes."""


class Failed(Exception):
    """Parameters (by their places in the plan) could not be written; the cause is what was raised."""

    def __init__(self, entries: tuple[int, ...]):
        super().__init__()
        self.entries = entries


def count(asked: int | None) -> int:
    """How many threads to use: the argument, else the environment's INITCONF_THREADS, else as many as torch has."""
    said: Any = asked
    where = "threads"
    if asked is None:
        said, where = os.environ.get(VARIABLE), VARIABLE
        if not said:
            return torch.get_num_threads()
    try:
        number = int(said) if asked is None else operator.index(said)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or isinstance(said, bool):
        raise ApplyError(Problem("not a number of threads", where, repr(said), remedy="give 1 or more"))
    return number


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread, so that the bits of what sums in parallel do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrices are multiplied in the dtype that they have, also where autocast says otherwise (for its own thread alone)."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def run(tasks: Iterable[Task], threads: int, done: Callable[[Task, Any], None]) -> None:
    """Do all tasks; `done` hears of each, one at a time, with what its work returned.

    Raises Failed for the first task that fails, and what the iterator raises, once all threads have stopped; so does Ctrl-C.
    """
    if getattr(_here, "is_of_a_crew", False):  # a law that itself initialises something
        _alone(tasks, done)
        return
    with _one_at_a_time, one_thread():
        while _unended:  # they would write over what is written now
            _wait(_unended[-1])
            _unended.pop()
        if threads == 1:
            _alone(tasks, done)
        else:
            _Crew(iter(tasks), done).work(threads)


def _alone(tasks: Iterable[Task], done: Callable[[Task, Any], None]) -> None:
    source = Source()
    for task in tasks:
        done(task, _made(task, source))


def _wait(end: threading.Event) -> None:
    while not end.wait(0.1):  # with a limit, so that Ctrl-C is heard
        pass


def _made(task: Task, source: Source) -> Any:
    try:
        return task.work(source)
    except Exception as error:
        raise Failed(task.entries) from error


class _Crew:
    """Threads that take their tasks from one iterator."""

    def __init__(self, tasks: Iterator[Task], done: Callable[[Task, Any], None]):
        self.tasks, self.done = tasks, done
        self.lock, self.stop = threading.Lock(), False
        # A new thread would work in CUDA's default streams: before, or in the middle of, what the caller has queued in its own.
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self.streams = [torch.cuda.current_stream(i) for i in range(torch.cuda.device_count())] if cuda else []
        self.error: BaseException | None = None
        self.inference = torch.is_inference_mode_enabled()  # and so may write what was made in it

    def work(self, threads: int) -> None:
        # Events, for Thread.join takes a thread for ended once Ctrl-C has interrupted it (Python 3.11).
        ends = [threading.Event() for _ in range(threads)]
        crew = [
            threading.Thread(target=self._member, args=(end,), name=f"initconf-{i}", daemon=True) for i, end in enumerate(ends)
        ]
        try:
            for member, end in zip(crew, ends, strict=True):
                try:
                    member.start()
                except RuntimeError:  # the machine lends no more threads
                    end.set()
            if all(member.ident is None for member in crew):
                self._member(ends[0])
            for end in ends:
                _wait(end)
        finally:
            self.stop = True
            begun = [(member, end) for member, end in zip(crew, ends, strict=True) if member.ident is not None]
            try:
                for member, end in begun:
                    _wait(end)
                    member.join()
            except BaseException:  # Ctrl-C once more
                _unended.extend(end for _, end in begun if not end.is_set())
                raise
        if self.error is not None:
            raise self.error

    def _member(self, end: threading.Event) -> None:
        try:
            _here.is_of_a_crew = True
            torch.set_num_threads(1)
            for stream in self.streams:
                torch.cuda.set_stream(stream)
            source = Source()
            with torch.inference_mode(self.inference):
                while (task := self._next()) is not None:
                    made = _made(task, source)
                    with self.lock:
                        self.done(task, made)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            with self.lock:
                self.error = self.error or error
                self.stop = True
        finally:
            _here.is_of_a_crew = False  # it may be the calling thread
            end.set()

    def _next(self) -> Task | None:
        with self.lock:
            return None if self.stop else next(self.tasks, None)
