"""The log: one JSON line per call, and lines for what operators must know. Never a body, never a key, never a wait."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from proxy.exchange import Story, Try, sort_of
from proxy.ports import Clock
from proxy.record.redact import may_hold_key, plain, scrubbed, scrubbed_id
from proxy.record.rows import Instant, rfc3339

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
BURST, BURST_S = 20, 10.0  # lines of one event in so many seconds; the rest is counted (faults.md D10: 100 KB a minute)
INFO = LEVELS["info"]
MAX_EVENTS = 256  # names that are told apart for that
MAX_SORTS, MAX_NAME = 1024, 256  # of calls whose lines have a beginning at hand; characters of a model's name among what they are known by
MAX_CALLERS = 131_072  # whose names are at hand as they show
PLACES = {
    "at": b'"%b"', "request_id": b'"%b"', "caller": b"%b", "input_tokens": b"%d", "output_tokens": b"%d", "cost_nanousd": b"%d",
    "found": b"%b", "duration_ms": b"%.3f", "first_byte_ms": b"%.3f", "upstream_ms": b"%.3f",
}  # fmt: skip
MOST = 2**63  # integers that JSON readers know are smaller
FLUSH_S = 0.25
MOST_LINES = 64  # of one write: what is joined is small, whatever waits
MAX_PENDING = 4 * 1024 * 1024  # bytes that wait for a slow reader; then lines are dropped and counted
Sort = tuple[object, ...]  # what the rest of a call's line follows from


class Pipe:
    """Lines on their way out, written by a thread of their own: a blocked pipe or a full disk holds up no call."""

    def __init__(self, fd: int) -> None:
        """`fd` is written to directly: a buffered file would be locked by this thread when the interpreter wants to end."""
        self._fd = fd
        self._lines: list[bytes] = []  # the loop appends at its end, the thread takes from its front: one step each, so no lock
        self._taken, self._most = 0, MAX_PENDING  # bytes so far, and how far that may go: the loop counts one, the thread lifts the other
        self._refused = self._lost = 0  # lines, by the one and by the other
        self._is_asleep = True
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._refused + self._lost

    def write(self, line: bytes) -> None:
        """Never blocks, never fails; for the event loop alone. `line` ends with its line feed."""
        taken = self._taken + len(line)
        if taken > self._most:
            self._refused += 1
            return
        self._taken = taken
        self._lines.append(line)
        if self._is_asleep:
            self._is_asleep = False
            self._wake.set()

    def close(self, wait_s: float = 1.0) -> None:
        """Writes what waits, for `wait_s` seconds at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join(wait_s)

    def _run(self) -> None:
        while True:
            is_last = self._closing.wait(FLUSH_S)
            if not self._lines and not is_last:
                self._wake.clear()
                self._is_asleep = True  # before the look: what comes after it wakes us again
                if not self._lines:
                    self._wake.wait()
            self._flush()
            if is_last:
                return

    def _flush(self) -> None:
        while lines := self._lines[:MOST_LINES]:
            del self._lines[: len(lines)]
            data = b"".join(lines)
            try:
                self._write_all(memoryview(data))
            except OSError:
                self._lost += len(lines)
            self._most += len(data)

    def _write_all(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody made our end non-blocking
                if self._closing.wait(FLUSH_S):
                    raise


@dataclass(slots=True)
class _Burst:
    since: float
    count: int = 0
    held_back: int = 0


class Log:
    """`write` takes whole lines; `shown` is how a caller's name shows (`record.redact`)."""

    def __init__(self, write: Callable[[bytes], None], clock: Clock, level: str = "info", shown: Callable[[str], str] = plain) -> None:
        self._clock, self._shown = clock, shown
        self._bursts: dict[str, _Burst] = {}
        self._level = LEVELS[level]
        self.instant, self.write = Instant(clock.now_ns), write
        self._forms: dict[Sort, bytes] = {}
        self.callers: dict[str, bytes] = {}  # as they show, for those who look here before they ask `caller`
        self.on_forget: Callable[[], object] = self.callers.clear  # whoever keeps what follows from level and names

    def set_level(self, level: str) -> None:
        """Of a policy that is live from now on; names may show in another way."""
        self._level = LEVELS[level]
        self._forms.clear()
        self.callers.clear()
        self.on_forget()

    def told(self, story: Story) -> None:
        """The line of a call that is over. Calls of nobody (bad credentials) are sampled, all others have one each."""
        call, caller, tries = story.call, story.caller, story.tries
        one = tries[0] if tries else Try(0, "refusal", call.route.provider, story.model, None)
        if caller is None or len(tries) > 1 or one.error is not None:
            return self._told_at_length(story)
        usage, first_byte = one.used or one.usage, one.first_byte
        form = self.form_of(story, one, usage.source)
        if form is None:
            return
        asked, said, cost = usage.input, usage.output, one.cost_nanousd
        if asked + said + cost > MOST:
            return self._told_at_length(story)
        began, ended, instant = call.began, story.ended, self.instant
        self.write(
            form
            % (
                instant.text if ended < instant.until else instant.turn(ended),
                shown_id(call.id) if call.id_is_callers else call.id.encode(),
                self.callers.get(caller.name) or self.caller(caller.name),
                asked,
                said,
                cost,
                shown_found(story.found) if story.found else b"{}",
                (ended - began) * 1e3,
                b"null" if first_byte is None else (first_byte - began) * 1e3,
                story.upstream_s * 1e3,
            )
        )

    def _told_at_length(self, story: Story) -> None:
        """Of nobody, of several attempts, or with figures that JSON readers do not know."""
        if self._level > INFO:
            return
        held_back = self._held_back("call refused") if story.caller is None else 0
        if held_back is not None:
            self._line("info", "call", {**self._summary(story), **({"held_back": held_back} if held_back else {})})

    def form_of(self, story: Story, one: Try, source: str) -> bytes | None:
        """The line of calls of this sort, with a place for each of `PLACES`; None: they have none. `source`: of the usage of `one`."""
        if self._level > INFO:
            return None
        kind, is_unheard = sort_of(story, one) if one.memo is None else one.memo.sort, one.first_byte is None
        sort = kind, story.end, story.status, one.kind, source, story.limit, story.streamed, is_unheard
        form = self._forms.get(sort)
        if form is None:
            if len(self._forms) >= MAX_SORTS:
                self._forms.clear()
            places = PLACES | {"first_byte_ms": b"%b"} if is_unheard else PLACES  # there is none: null
            fields = {"at": "", "level": "info", "event": "call", **self._summary(story)}
            shown = {name: orjson.dumps(_clean(name, it)).replace(b"%", b"%%") for name, it in fields.items()} | places
            form = b"{" + b",".join([b'"%b":%b' % (name.encode(), shown[name]) for name in fields]) + b"}\n"
            if len((story.tries[0] if story.tries else story).model or "") <= MAX_NAME:
                self._forms[sort] = form
        return form

    def caller(self, name: str) -> bytes:
        if len(self.callers) >= MAX_CALLERS:
            self.callers.clear()
        said = self.callers[name] = b"%b" % orjson.dumps(_clean("caller", self._shown(name)))  # what orjson makes takes up 4 kB
        return said

    def retried(self, request_id: str, failed: Try) -> None:
        """The attempt that failed and is about to be repeated elsewhere or again, with its error class."""
        fields = {"request_id": request_id, "attempt": failed.number, "provider": failed.provider, "model": failed.model}
        if self._level <= LEVELS["warning"]:
            self._line("warning", "retry", {**fields, "status": failed.status, "error": failed.error})

    def failure(self, request_id: str, error: BaseException) -> None:
        """An error that nobody foresaw: its class and where it came from, never its text, which may quote a body or a key."""
        frames = traceback.extract_tb(error.__traceback__)[-5:]
        where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        self.event("error", "failure", request_id=request_id, error=type(error).__name__, where=where)

    def event(self, level: str, event: str, **fields: object) -> None:
        """What an operator should know. `event` is a fixed text of ours; beyond 20 in 10 s they are counted, not written."""
        if self._level > LEVELS[level]:
            return
        held_back = self._held_back(event)
        if held_back is not None:
            self._line(level, event, {**fields, "held_back": held_back} if held_back else fields)

    def _held_back(self, event: str) -> int | None:
        """None: hold this one back too. Else how many were since the last burst."""
        now = self._clock.monotonic()
        if event not in self._bursts and len(self._bursts) >= MAX_EVENTS:
            event = "other"
        burst = self._bursts.setdefault(event, _Burst(now))
        if now - burst.since >= BURST_S:
            burst.since, burst.count = now, 0
        if burst.count >= BURST:
            burst.held_back += 1
            return None
        burst.count += 1
        held_back, burst.held_back = burst.held_back, 0
        return held_back

    def _line(self, level: str, event: str, fields: dict[str, object]) -> None:
        head: dict[str, object] = {"at": rfc3339(self._clock.now_ns()), "level": level, "event": event}
        try:
            line = orjson.dumps({**head, **fields}, default=_class_name)
        except TypeError:  # a lone surrogate, or an integer that JSON readers do not know
            line = b""
        if not line or may_hold_key(line):
            line = orjson.dumps({**head, **{name: _clean(name, value) for name, value in fields.items()}}, default=_class_name)
        self.write(line + b"\n")

    def _summary(self, story: Story) -> dict[str, object]:
        call, last = story.call, story.tries[-1] if story.tries else None
        caller = story.caller
        asked = said = cost = 0
        for one in story.tries:
            asked, said, cost = asked + one.usage.input, said + one.usage.output, cost + one.cost_nanousd
        return {
            "request_id": call.id,
            "caller": self._shown(caller.name) if caller else None,
            "team": caller.team if caller else None,
            "tier": caller.tier if caller else None,
            "provider": last.provider if last else call.route.provider,
            "model": last.model if last else story.model,
            "operation": story.operation,
            "end": story.end,
            "status": story.status,
            "attempts": sum(one.kind != "refusal" for one in story.tries),
            "errors": [one.error for one in story.tries if one.error],
            "input_tokens": asked,
            "output_tokens": said,
            "usage_source": last.usage.source if last else "none",
            "cost_nanousd": cost,
            "limit": story.limit,
            "found": {" ".join(key): count for key, count in story.found.items()},
            "streamed": story.streamed,
            "duration_ms": round((story.ended - call.began) * 1000, 3),
            "first_byte_ms": _first_byte_ms(story),
            "upstream_ms": round(story.upstream_s * 1000, 3),
            "policy_generation": story.generation,
        }


def shown_id(request_id: str) -> bytes:
    """One of a caller's as it may show, for a place between quotes."""
    return orjson.dumps(scrubbed_id(request_id))[1:-1]


def shown_found(found: Mapping[tuple[str, str, str], int]) -> bytes:
    return orjson.dumps({" ".join(key): count for key, count in found.items()})


def _first_byte_ms(story: Story) -> float | None:
    first = next((one.first_byte for one in story.tries if one.first_byte is not None), None)
    return None if first is None else round((first - story.call.began) * 1000, 3)


def _clean(name: str, value: object) -> object:
    if isinstance(value, str):
        # JSON has no lone surrogates: such text came from a broken client and is shown as it can be
        text = value if value.isascii() else value.encode("utf-8", "replace").decode()
        return scrubbed_id(text) if name == "request_id" else scrubbed(text)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value
    if isinstance(value, (list, tuple)):
        return [_clean("", one) for one in value]
    if isinstance(value, dict):
        return {scrubbed(str(key)): _clean("", one) for key, one in value.items()}
    return value


def _class_name(value: object) -> str:
    """For what JSON cannot hold: its class alone, as its text may hold a secret."""
    return type(value).__name__
