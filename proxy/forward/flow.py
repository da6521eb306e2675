"""What arrives of a body while the client takes it, read by read. Takes no chunk apart that is as we would write it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from httptools import HttpParserError

from proxy.forward.parse import AnswerParser, all_of
from proxy.ports import LEAST_FRAMED, Line, Outlet

if TYPE_CHECKING:
    from proxy.forward.answer import Reply

_END = b"\r\n"
_REACH = 2048  # bytes of a read: most events are much shorter


def _chunks() -> tuple[list[bytes], list[int]]:
    """By the length of a read that is one whole chunk: its first line, and the bytes of its data; -1: no chunk is so long."""
    starts, sizes = [b""] * _REACH, [-1] * _REACH
    for size in range(LEAST_FRAMED, _REACH):
        start = b"%x\r\n" % size
        whole = len(start) + size + len(_END)
        if whole < _REACH:
            starts[whole], sizes[whole] = start, size
    return starts, sizes


_STARTS, _SIZES = _chunks()


def flow_of(reply: Reply, parser: AnswerParser, sink: Outlet, line: Line, late: list[bytes]) -> Callable[[bytes], None]:
    """What gets each read of the socket while the client takes the body. `late`: pieces that it has, and the line has not heard of."""
    flow = _flow(reply, parser, sink, line, late)
    next(flow)
    return flow.send


def _flow(reply: Reply, parser: AnswerParser, sink: Outlet, line: Line, late: list[bytes]) -> Generator[None, bytes]:
    """All pieces in a read go out in one write. A generator, as its variables are at hand, and nothing is set up for a read."""
    lag, feed, push = line.lag, line.feed, sink.push
    starts, sizes, end = _STARTS, _SIZES, _END
    room = lag
    reach = 0  # a read shorter than this may be one chunk as we would write it: llhttp stands between two, and need not see that one
    while True:
        piece = out = b""  # may be large: is not kept until the next read
        data = yield
        whole = len(data)
        if whole >= reach or len(piece := data.removeprefix(starts[whole]).removesuffix(end)) != (size := sizes[whole]):
            data, piece = b"", _apart(reply, parser, data)  # from here on `data` is the framed piece, if at all
            reach = _REACH if parser.whole else 0
            if not piece:
                continue
            size = len(piece)
        parser.has_body = True
        try:
            if lag:
                late.append(piece)
                room -= size
                if room < 0:
                    feed(all_of(late))
                    room = line.lag
            elif (out := feed(piece)) is not piece:
                piece, data = out, b""
                if not out:
                    continue
            if push(piece, data):
                reply.is_ahead()
        except Exception as fault:  # whatever it is, it belongs to the task that waits in `relay`, not to the event loop
            reply.broken(fault)


def _apart(reply: Reply, parser: AnswerParser, data: bytes) -> bytes:
    """The body in any other read: by llhttp, as `parser.feed` does after a head."""
    slices = parser.slices
    try:
        parser.read(data)
        piece = slices.popleft()
    except HttpParserError as error:
        reply.told(parser.faulty, error)
        piece = b""
    except IndexError:
        piece = b""
    if slices or not piece or not parser.due:
        if not parser.due:
            reply.ended()
        if not (piece or slices):
            reply.told(parser.noise, data)
        piece += all_of(slices)
    if piece:
        parser.no_body = 0
    if parser.whole and not (piece and data.endswith(_END)):  # some of the next chunk's first line may have come with it
        parser.whole.clear()
    return piece
