"""A real App in a process of its own that counts what its calls execute. Reads no clock: time moves when hotpath.py says so.

Counted are, on the event loop's thread and the ledger's: the bytecode instructions and calls of each Python function, the C functions
that it calls, and the bytes that it gives to those that go over all of them (methods of str and bytes, orjson, RE2). Not seen: what
operators do (`in`, slices), the kernel, and the thread that writes the log.

    counted.py FOLDER FD   serves FOLDER/policy.yaml, told what to do over the socket FD; FOLDER/sown.py runs before the App is made,
                           as if it stood in proxy/record: a slow-down that the tests sow
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import json
import os
import re
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import re2
import uvloop

TURNS = 12  # of the event loop: then nothing is left of what has arrived
BEGIN_NS = 1_795_000_000 * 10**9  # a day in 2026
LEDGER_THREAD = "sluice-ledger"
SOWN = "proxy/record/sown.py"

Trace = Callable[[FrameType, str, Any], Any]


class Function:
    """What one Python function did. `step` is its trace function."""

    def __init__(self, frame: FrameType) -> None:
        self.file, self.name = named(frame)
        self.calls = self.bytecodes = self.c_calls = self.c_bytes = 0

    def step(self, _: FrameType, event: str, __: object) -> Trace:
        if event == "opcode":
            self.bytecodes += 1
        return self.step


def named(frame: FrameType) -> tuple[str, str]:
    """A function's file by its place in its package ("proxy/guard/find.py", "asyncio/events.py"), and its name. Of what a dataclass
    has made for itself: where the class stands."""
    path, name = frame.f_code.co_filename, frame.f_code.co_qualname
    if path == "<string>":
        it = frame.f_locals.get("self")
        return frame.f_globals["__name__"].replace(".", "/") + ".py", f"{type(it).__name__}.{frame.f_code.co_name}"
    found = re.search(r".*/(?:site-packages|python3\.\d+)/(.*)$|(?:^|/)(proxy/.*)$", path)
    return (found[1] or found[2]) if found else path, name


class Counter:
    """Of one thread. What this file does is left out."""

    def __init__(self) -> None:
        self.all: dict[int, Function] = {}
        self.is_on = False

    def trace(self, frame: FrameType, _: str, __: object) -> Trace | None:
        """A frame begins, or a coroutine goes on."""
        if not self.is_on or frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        found = self._of(frame)
        found.calls += 1
        return found.step

    def profile(self, frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            of = getattr(what, "__self__", None)
            self.c_call(frame, len(of) if isinstance(of, (bytes, bytearray, str)) else 0)

    def c_call(self, frame: FrameType, size: int) -> None:
        if self.is_on and frame.f_code.co_filename != __file__:
            found = self._of(frame)
            found.c_calls += 1
            found.c_bytes += size

    @contextmanager
    def paused(self) -> Iterator[None]:
        was, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = was

    def _of(self, frame: FrameType) -> Function:
        found = self.all.get(id(frame.f_code))
        if found is None:
            found = self.all[id(frame.f_code)] = Function(frame)
        return found


class Counters:
    """Of both threads."""

    def __init__(self) -> None:
        self.loop, self.ledger = Counter(), Counter()
        self._ledger_thread = 0
        self._wrap()
        threading.settrace(self._begins)

    def switch(self, is_on: bool) -> None:
        """Called on the event loop's thread, while the ledger's waits."""
        self.loop.is_on = self.ledger.is_on = is_on
        sys.settrace(self.loop.trace if is_on else None)
        sys.setprofile(self.loop.profile if is_on else None)

    def told(self) -> list[Any]:
        """File, name and figures of each function."""
        both = (*self.loop.all.values(), *self.ledger.all.values())
        return [(it.file, it.name, {name: getattr(it, name) for name in ("calls", "bytecodes", "c_calls", "c_bytes")}) for it in both]

    def _begins(self, *_: object) -> None:
        """The trace function of every new thread until here."""
        is_counted = threading.current_thread().name == LEDGER_THREAD
        self._ledger_thread = threading.get_ident() if is_counted else self._ledger_thread
        sys.settrace(self.ledger.trace if is_counted else None)
        sys.setprofile(self.ledger.profile if is_counted else None)

    def _wrap(self) -> None:
        """C functions that go over all of what they are given. Done before any module of ours takes them by name."""

        def counting(function: Callable[..., Any], at: int | None) -> Callable[..., Any]:
            def counted(*args: Any, **named: Any) -> Any:
                result = function(*args, **named)
                on = self.ledger if threading.get_ident() == self._ledger_thread else self.loop
                on.c_call(sys._getframe(1), len(result if at is None else args[at]))
                return result

            return counted

        orjson.loads, orjson.dumps = counting(orjson.loads, 0), counting(orjson.dumps, None)
        re2._re2.RE2.Match, re2._re2.Set.Match = counting(re2._re2.RE2.Match, 2), counting(re2._re2.Set.Match, 1)


class Inline(ThreadPoolExecutor):
    """What the loop gives to other threads is done at once, and not counted."""

    def __init__(self, counter: Counter) -> None:
        super().__init__(max_workers=1)
        self._counter = counter

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._counter.paused():
            done: Future[Any] = Future()
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as problem:
                done.set_exception(problem)
            return done


class Timer:
    """As asyncio's. A cancelled one stays where it is until it is due."""

    def __init__(self, when: float, callback: Any, args: Any, context: Any) -> None:
        self.callback, self.args, self.context = callback, args, context
        self._when, self._is_cancelled = when, False

    def cancel(self) -> None:
        self._is_cancelled = True

    def cancelled(self) -> bool:
        return self._is_cancelled

    def when(self) -> float:
        return self._when


class Loop(uvloop.Loop):
    """uvloop, but its time goes on when it is told to: how fast this machine is changes no count."""

    def __init__(self) -> None:
        self._s = 1000.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        super().__init__()

    def time(self) -> float:
        return self._s

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Timer:
        return self.call_at(self._s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Timer:
        timer = Timer(when, callback, args, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def advance(self, seconds: float) -> None:
        until = self._s + seconds
        while self._timers and self._timers[0][0] <= until:
            self._s, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self.call_soon(timer.callback, *timer.args, context=timer.context)
        self._s = until


class Told:
    """Does what the driver says, line by line, and says when it is done."""

    def __init__(self, loop: Loop, line: socket.socket, counters: Counters, flush: Callable[[], object]) -> None:
        self._loop, self._line, self._counters, self._flush = loop, line, counters, flush
        self._held = 0
        loop.add_reader(line, self._read)

    def _read(self) -> None:
        said = self._line.recv(4096)
        if not said:
            os._exit(0)  # the driver is gone
        what, *args = said.decode().split()
        getattr(self, what)(*map(float, args))

    def say(self, what: bytes = b"[]") -> None:
        self._line.sendall(what + b"\n")

    def settle(self, seconds: float, turns: int = TURNS) -> None:
        """Time goes on; then all is done that follows from it and from what has arrived."""
        self._loop.advance(seconds)
        if turns:
            self._loop.call_soon(self.settle, 0.0, turns - 1)
        else:
            self.say()

    def count(self) -> None:
        self._flush()
        self._counters.switch(True)
        self.say()

    def counted(self) -> None:
        self._flush()
        self._counters.switch(False)
        self.say(json.dumps(self._counters.told()).encode())

    def allocate(self) -> None:
        """From now to `allocated`: how many bytes more are held than now, at most."""
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        tracemalloc.reset_peak()
        self._held = tracemalloc.get_traced_memory()[0]
        self.say()

    def allocated(self) -> None:
        self.say(b"%d" % (tracemalloc.get_traced_memory()[1] - self._held))


def still(counters: Counters, loop: Loop) -> None:
    """Nothing depends on how fast this machine is: no clock, and no thread that does something meanwhile."""
    from proxy import app
    from proxy.admit import sqlite
    from proxy.record import log

    submit = sqlite.Index.submit

    def and_wait(index: sqlite.Index, work: Any) -> Future[Any]:
        done: Future[Any] = submit(index, work)
        with counters.loop.paused():
            wait([done])
        return done

    app.SystemClock.now_ns = staticmethod(lambda: BEGIN_NS + int(loop.time() * 1e9))  # type: ignore[method-assign]  # time as told
    app.SystemClock.monotonic = staticmethod(loop.time)  # type: ignore[method-assign]  # time as told
    sqlite.Index.submit = and_wait  # type: ignore[method-assign,assignment]  # only the loop's thread submits
    sqlite.GATHER_S = log.FLUSH_S = 1e6  # rows wait until a task is submitted; log lines wait to the end
    loop.set_default_executor(Inline(counters.loop))


async def serve(folder: Path, line: socket.socket, counters: Counters) -> None:
    from proxy.app import App, Places
    from proxy.policy.watch import load

    exec(compile((folder / "sown.py").read_text(), SOWN, "exec"), {"__name__": "sown"})
    loop: Any = asyncio.get_running_loop()
    still(counters, loop)
    loaded = load(folder / "policy.yaml", environ={}, generation=1, now_ns=BEGIN_NS)
    app = await App.open(Places(folder / "policy.yaml", "127.0.0.1:0", "127.0.0.1:0", folder / "state"), loaded)
    gc.disable()
    told = Told(loop, line, counters, lambda: app._state._index.submit(lambda _: None))
    told.say(b"%d" % app._edge.port)
    await app.serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), Counters()))
