"""A call that is cancelled at whatever await it stands: nothing is kept, each attempt is settled or voided once."""

import asyncio
import contextlib

import pytest
from support.inside import (
    STREAM,
    Answer,
    Body,
    CancelledAt,
    Sink,
    chat,
    completion,
    error,
    talk,
    whole,
)

from proxy.refusal import UpstreamCut, UpstreamFailed

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n' + b"x" * 100,
    b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n',
    b"--b--\r\n",
)
AUDIO = {"target": "/openai/v1/audio/transcriptions", "content_type": "multipart/form-data; boundary=b"}
MODELS = {"target": "/openai/v1/models", "method": "GET", "key": "bob"}
OVERLOADED = b'data: {"error":{"message":"no","type":"overloaded_error"}}\n\n'
CALLS = {
    "whole": (lambda: Body(chat()), lambda: (completion(),), {}),
    "streamed": (lambda: Body(chat(stream=True)), lambda: (talk(),), {}),
    "retried": (lambda: Body(chat()), lambda: (UpstreamFailed("upstream_reset", "reset", sent=True), error(503), completion()), {}),
    "error event, then a stream": (
        lambda: Body(chat(stream=True)),
        lambda: (Answer(200, (OVERLOADED,), STREAM), talk()),
        {},
    ),
    "cut before content, then a stream": (
        lambda: Body(chat(stream=True)),
        lambda: (talk(b": hello\n\n", breaks=UpstreamCut()), talk()),
        {},
    ),
    "fallen back": (lambda: Body(chat()), lambda: (error(500), error(500), error(500), completion()), {}),
    "upload": (lambda: Body(*FORM), lambda: (whole({"text": "hello", "usage": {"type": "tokens"}}),), AUDIO),
    "list of models": (Body, lambda: (whole({"data": [{"id": "gpt-4o"}, {"id": "o3"}]}),), MODELS),
    "refused by the provider": (lambda: Body(chat()), lambda: (error(400),), {}),
}  # fmt: skip


@pytest.mark.parametrize("who", ["the client leaves", "the drain is over"])
@pytest.mark.parametrize("name", CALLS)
async def test_wherever_it_is_cancelled_nothing_is_kept(path_with, name, who):
    path = await path_with("fallback: {gpt-4o: [spare/gpt-4o]}")
    body, script, call = CALLS[name]
    number = 0
    ends = set()
    while True:
        number += 1
        path.probe()
        sink = Sink()
        path.upstream.given.clear()
        path.store.state._refusals = (0, 0)  # rows of refusals are sampled

        def leaves(sink=sink):
            sink.is_gone = who != "the drain is over"

        walk = CancelledAt(path.run(body(), *script(), sink=sink, **call), number, leaves)
        task = asyncio.ensure_future(walk_through(walk))
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        await path.assert_nothing_is_left()
        assert len(asyncio.all_tasks()) == 1
        ends.add(path.story.end)
        if walk.waits < number:
            break
    assert number > 3
    gone = {"client_gone"} if who != "the drain is over" else {"refused:draining", "stopped:drain"}
    assert ends <= {"done", *gone}
    assert ends & gone


async def walk_through(walk):
    return await walk


async def test_an_answer_that_has_not_come_is_closed_with_its_call(path):
    """Its connection is lent to nobody until then."""

    class Coming:
        is_closed = False

        def close(self):
            self.is_closed = True

    asked, coming = asyncio.Event(), Coming()

    async def send(request, timeouts, now, deadline):
        request.coming, request.is_sent = coming, True
        asked.set()
        await asyncio.Event().wait()

    path.rooms.upstream.send = send
    task = asyncio.ensure_future(path.run(chat()))
    await asked.wait()
    assert not coming.is_closed
    task.cancel()
    await asyncio.wait({task})
    assert coming.is_closed
    await path.assert_nothing_is_left()
