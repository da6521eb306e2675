"""A scripted provider on a real socket: records what arrives byte for byte, answers what the test says. Knows no dialect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # set when the other side has closed the connection
    pieces: AsyncIterator[bytes] | None = None  # of the body, as they come; only with `reads_body=False`

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name), None)

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Reply:
    """What the script answers with. Everything is written as given."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_chunked = False
        self.keeps = True

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def whole(
        self, status: int, body: bytes, content_type: str = "application/json", headers: list[tuple[str, str]] | None = None
    ) -> None:
        lines = [("content-type", content_type), *(headers or []), ("content-length", str(len(body)))]
        await self.raw(self._head(status, lines) + body)

    async def json(self, doc: object, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        await self.whole(status, json.dumps(doc).encode(), headers=headers)

    async def start(self, status: int = 200, content_type: str = "text/event-stream", headers: list[tuple[str, str]] | None = None) -> None:
        self.is_chunked = True
        await self.raw(self._head(status, [("content-type", content_type), *(headers or []), ("transfer-encoding", "chunked")]))

    async def chunk(self, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, doc: object, name: str | None = None) -> None:
        head = f"event: {name}\n" if name else ""
        await self.chunk(f"{head}data: {doc if isinstance(doc, str) else json.dumps(doc)}\n\n")

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    def abort(self) -> None:
        """Resets the connection."""
        self.keeps = False
        self._writer.transport.abort()

    def _head(self, status: int, lines: list[tuple[str, str]]) -> bytes:
        return (f"HTTP/1.1 {status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n").encode("latin-1")


Script = Callable[[Seen, Reply], Awaitable[None]]


class Provider:
    """`async with Provider(script) as provider:` — `provider.url`, `provider.seen`. The script may be replaced at any time.

    With `reads_body=False` the script gets control after the headers and reads `seen.pieces` as it pleases.
    """

    def __init__(self, script: Script, *, reads_body: bool = True) -> None:
        self.script = script
        self._reads_body = reads_body
        self.seen: list[Seen] = []
        self.problems: list[BaseException] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.problems:
            raise self.problems[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as problem:
            self.problems.append(problem)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        seen = Seen(method, target, headers)
        pieces = self._pieces(reader, seen)
        if self._reads_body:
            seen.body = b"".join([piece async for piece in pieces])
        else:
            seen.pieces = pieces
        self.seen.append(seen)
        watch = asyncio.ensure_future(self._watch(reader, seen))
        reply = Reply(writer)
        try:
            await self.script(seen, reply)
        except ConnectionError:
            seen.gone.set()
            raise
        finally:
            watch.cancel()
            with contextlib.suppress(BaseException):
                await watch
        return reply.keeps and not seen.gone.is_set()

    @staticmethod
    async def _pieces(reader: asyncio.StreamReader, seen: Seen) -> AsyncIterator[bytes]:
        if (seen.header("transfer-encoding") or "").lower() == "chunked":
            while size := int((await reader.readuntil(b"\n")).split(b";")[0], 16):
                yield (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return
        left = int(seen.header("content-length") or 0)
        while left:
            piece = await reader.read(left)
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    @staticmethod
    async def _watch(reader: asyncio.StreamReader, seen: Seen) -> None:
        """Notices the other side closing, without eating bytes of a next request."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.01)
        seen.gone.set()
