"""One attempt on its way; which lines its answer's bytes pass, and what is said into a stream that breaks off. Sends nothing, ends none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proxy.at_limit import Purse
from proxy.dialect.wire import Dialect, StreamFormat
from proxy.exchange import Story, Try, bare
from proxy.forward.breaker import FEW_S, Turn
from proxy.forward.failure import OK, Outcome, of_breaker
from proxy.forward.lane import Lane
from proxy.forward.reflection import NoReflection
from proxy.forward.shape import Form
from proxy.guard.restore import restoring
from proxy.meter.price import Quote
from proxy.meter.strip import StripUsage
from proxy.policy.plan import Target
from proxy.ports import Answer, Line, Outgoing
from proxy.refusal import Refusal
from proxy.rooms import Ready
from proxy.stream.coding import READABLE
from proxy.stream.tail import gap
from proxy.stream.taps import streaming


class Seeing(Line, Protocol):
    """That of the meter: it sees the provider's bytes and changes none."""

    is_stream: bool  # that can be read


class Nowhere:
    """The line of an answer that has none yet."""

    lag = 0

    def feed(self, data: bytes) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


NOWHERE = Nowhere()


class Through:
    """Two lines, one behind the other."""

    lag = 0

    def __init__(self, first: Line, second: Line) -> None:
        self._first, self._second = first, second

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def end(self) -> bytes:
        return self._second.feed(self._first.end()) + self._second.end()


class Sent(Outgoing):
    """One attempt: the request as it leaves, and what was held for it; then its answer, whose head has come. `begun` makes it."""

    __slots__ = ("answer", "form", "held_nanousd", "outcome", "quote", "stream", "target", "try_", "turn")

    answer: Answer
    try_: Try
    target: Target
    turn: Turn
    quote: Quote
    held_nanousd: int  # before anything was added to it
    form: Form
    outcome: Outcome
    stream: StreamFormat | None  # how the answer streams; None: it is one whole body


@dataclass(slots=True)
class Failed:
    """The attempt that failed last: what the client gets, should no other follow. Its answer is still open, or never was."""

    outcome: Outcome
    sent: Sent | None = None
    no: Refusal | None = None


def begun(lane: Lane, uid: str, story: Story, turn: Turn, at_ns: int, now: float) -> Sent:
    """An attempt that has its turn, and is part of the story from here on."""
    tries = story.tries
    try_ = bare(Try)
    try_.number = number = len(tries) + 1
    try_.id = f"{uid}/{number}" if tries else uid + "/1"
    try_.kind = lane.step.kind
    try_.provider = lane.name
    try_.model = lane.model
    try_.credential = lane.credential
    try_.at_ns = at_ns
    try_.began = now
    try_.error = None  # these are asked of each: what a class says is found slowly
    try_.end = "done"
    try_.is_read_back = False
    try_.row = None
    tries.append(try_)
    sent = bare(Sent)
    sent.try_ = try_
    sent.target = lane.target
    sent.turn = turn
    sent.is_sent = False
    sent.coming = sent.upload = sent.upload_length = None
    sent.outcome = OK
    return sent


def left_alone(turn: Turn, target: Target, before: Failed | None) -> Failed:
    """The breaker is open."""
    wait = turn.retry_after_s
    if before is not None:
        return Failed(of_breaker(wait), before.sent, before.no)
    text = f"provider {target.provider.name} is failing for this model and is left alone for a while"
    no = Refusal(503, "breaker_open", text, retry_after=wait, should_retry=None if wait <= FEW_S else False)
    return Failed(of_breaker(wait), None, no)


# How an answer reaches the client: the line its bytes pass; of a stream that we could say something into, how it is framed for the
# client; the length of its body, where it is known; and is it reworded, event by event and so uncoded, or as a whole?
Way = tuple[Line, str, int | None, bool]


def way_of(sent: Sent, ready: Ready, watch: Seeing, paid: Purse | None, body: bytes | None) -> Way:
    """How this answer reaches the client. `body`: the list of models that stands in its place."""
    if body is not None:
        watch.feed(body)
        return watch, "", len(body), True
    answer, key = sent.answer, sent.form.key
    line: Line = watch
    is_reworded = False
    if ready.vault or paid is not None or sent.asked_usage:
        line, is_reworded = _reworded(sent, ready, paid, watch)
    length = answer.length if line is watch and not watch.is_stream else None
    if answer.said.coding and not is_reworded:  # nothing in it can be read, and nothing be said
        return line, "", length, False
    if key:  # no provider hands our key to a caller
        line = NoReflection(line, key)
    return line, sent.stream or "", length, is_reworded


def _reworded(sent: Sent, ready: Ready, purse: Purse | None, watch: Seeing) -> tuple[Line, bool]:
    """The line that changes an answer where something wants that, else the watch; and whether it reads it event by event, and so uncoded.

    A usage that we asked for is taken out again.
    """
    is_plain = watch.is_stream and not sent.answer.said.coding
    line: Line = StripUsage(watch) if sent.asked_usage and is_plain else watch
    events = _by_events(sent, ready, purse) if ready.vault or purse else None
    return (line, False) if events is None else (Through(line, events), True)


def _by_events(sent: Sent, ready: Ready, purse: Purse | None) -> Line | None:
    """Gives values back, and may end an answer between two events. None: it cannot be read."""
    head, op = sent.answer.said, ready.common.op
    form = sent.stream or ("json" if "json" in head.kind else None)
    if form is None or (head.coding and head.coding not in READABLE):
        return None
    taps = (purse,) if purse else ()
    line = restoring(sent.form.dialect, op, ready.vault, form, head.coding, taps) if ready.vault else streaming(form, taps, head.coding)
    return purse.behind(line) if purse else line


def last_words(dialect: Dialect, ready: Ready, passed: bytes, form: str, code: str, text: str) -> bytes:
    """The error event of the dialect, where one can be said. `passed`: what the client got last; `form`: of its stream, if it is one."""
    before = gap(passed, form) if form else None
    return b"" if before is None else before + dialect.error_event(ready.common.op, code, text, ready.call.id)
