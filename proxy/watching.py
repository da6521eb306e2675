"""Who reads what an answer has used: a glance at it where it comes whole and says all, else a watch. Changes no byte."""

from __future__ import annotations

from proxy.dialect.jobs import Job
from proxy.exchange import Usage
from proxy.lines import Sent
from proxy.meter.reading import STEP
from proxy.meter.tap import Watch
from proxy.meter.whole import stated
from proxy.rooms import Ready


class Glance:
    """A `ports.Line` for a JSON answer that is likely to come in one piece and to state its usage. Anything else is asked of a watch,
    which is made then."""

    __slots__ = ("_body", "_full", "_ready", "_sent")
    lag = STEP
    is_stream = is_cut_short = False  # it has no content coding that could end too early

    def __init__(self, sent: Sent, ready: Ready) -> None:
        self._sent, self._ready = sent, ready
        self._body = b""
        self._full: Watch | None = None

    def feed(self, data: bytes) -> bytes:
        if self._full is None and not self._body:
            self._body = data
            return data
        return self._watch().feed(data)

    def hear(self, pieces: list[bytes]) -> None:
        """See `ports.Late`."""
        self.feed(b"".join(pieces))

    def end(self) -> bytes:
        return b""

    def told(self) -> tuple[Usage, str | None]:
        """See `Watch.told`."""
        return told_of(self._sent, self._ready, self._body) if self._full is None else self._full.told()

    @property
    def ended(self) -> bool:
        return self._watch().ended

    @property
    def error(self) -> str | None:
        return self._watch().error

    def usage(self) -> Usage:
        return self._watch().usage()

    def job(self, path: str) -> Job | None:
        return self._watch().job(path)

    def _watch(self) -> Watch:
        full = self._full
        if full is None:
            full = self._full = watch_of(self._sent, self._ready)
            if self._body:
                full.feed(self._body)
                self._body = b""
        return full


Watching = Watch | Glance


def is_plain(sent: Sent, ready: Ready) -> bool:
    """Is it a JSON answer that is likely to state its usage?"""
    return sent.answer.said.is_plain and ready.common.op.is_one_talk and sent.stream is None


def watching(sent: Sent, ready: Ready) -> Watching:
    """For an answer that is about to be relayed."""
    return Glance(sent, ready) if is_plain(sent, ready) else watch_of(sent, ready)


def told_of(sent: Sent, ready: Ready, body: bytes) -> tuple[Usage, str | None]:
    """See `Watch.told`, of such an answer that has come in one piece."""
    return stated(sent.form.dialect, ready.common.op, body) or watched(sent, ready, body)


def watched(sent: Sent, ready: Ready, body: bytes) -> tuple[Usage, str | None]:
    """The same of one that does not state it."""
    watch = watch_of(sent, ready)
    watch.feed(body)
    return watch.told()


def watch_of(sent: Sent, ready: Ready) -> Watch:
    """That has seen nothing yet."""
    answer, upload = sent.answer, ready.upload
    head, held = answer.said, sent.try_.held_usage
    input, output = held[:2] if held else (0, 0)
    return Watch(
        sent.form.dialect,
        ready.common.op,
        ready.asked,
        head.kind,
        head.coding,
        answer.status,
        input,
        output,
        None if upload is None else upload.count,
    )
