"""An answer that is here with its head ends as one that comes piece by piece: the same reply, row and story."""

import pytest
from support.inside import Answer, Sink, chat, completion, error, talk, whole

from proxy.exchange import Row

OF_TIME = ("at", "id", "request_id", "duration_ms", "first_byte_ms", "overhead_ms")
KEY = "sk-provider-secret-1"
TIMED = ("server-timing", "x-sluice-request-id", "x-request-id", "x-ratelimit-remaining", "ratelimit", "x-ratelimit-reset")


def odd() -> Answer:
    return Answer(200, (b'{"id": "c"', b"} and more"), length=20)


def unsaid() -> Answer:
    return whole({"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two"}}]})


def longer() -> Answer:
    answer = completion()
    answer.length = None
    return answer


def reflecting() -> Answer:
    answer = completion(f"your key is {KEY}, is it not?")
    answer.chunks = (b"".join(answer.chunks),)
    return answer


async def ended(path, answer, sink):
    """What is left of a call, but for what differs from call to call."""
    await path.run(chat(), answer, sink=sink)
    (row,) = await path.rows()
    story = path.story
    assert set(OF_TIME) < set(Row._fields)
    await path.assert_nothing_is_left()
    return (
        sink.status, sink.body, sink.length, sink.is_finished, sink.is_aborted, sink.no and sink.no.code,
        {name: value for name, value in sink.headers.items() if name not in TIMED},
        {name: value for name, value in row.items() if name not in OF_TIME},
        story.end, story.status, story.streamed, answer.closed,
    )  # fmt: skip


@pytest.mark.parametrize("answered", [completion, unsaid, odd, longer, reflecting, lambda: error(400), lambda: talk()])
@pytest.mark.parametrize("leaves", ["no", "and is let go", "and it is finished anyway"])
async def test_it_ends_as_one_that_comes_piece_by_piece(path_with, answered, leaves):
    path = await path_with("on_client_gone: finish" if leaves.endswith("anyway") else "")
    found = []
    for is_here in (False, True):
        sink, answer = Sink(), answered()
        answer.is_here = is_here
        if leaves != "no":
            given = path.rooms.upstream.send

            async def send(*what, given=given, sink=sink):
                answer = await given(*what)
                sink.is_gone = True
                return answer

            path.rooms.upstream.send = send
        found.append(await ended(path, answer, sink))
        path.rooms.upstream.__dict__.pop("send", None)
    assert found[0] == found[1]


async def test_it_is_taken_at_once(path):
    answer = completion()
    answer.is_here = True
    sink = await path.run(chat(), answer)
    assert (answer.passed, sink.drained) == (0, 0)
    assert sink.is_finished


async def test_a_key_in_it_never_reaches_the_client(path):
    answer = reflecting()
    answer.is_here = True
    sink = await path.run(chat(), answer)
    assert sink.is_aborted
    assert KEY.encode() not in sink.body
    assert b"key reflected" in b"".join(path.lines)
    assert path.story.end == "upstream_cut"


@pytest.mark.parametrize("more", ["guard: {pii: {default: mask}, restore: true}", ""])
async def test_what_is_to_be_given_back_is_given_back_into_it_too(path_with, more):
    path = await path_with(more)
    answer = completion("write to [EMAIL_1]")
    answer.is_here = True
    sink = await path.run(chat("mail ana@corp.com"), answer)
    assert sink.json["choices"][0]["message"]["content"] == f"write to {'ana@corp.com' if more else '[EMAIL_1]'}"
