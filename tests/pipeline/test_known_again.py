"""What a connection's next call with the same head and credential is told at once is what it would be told anew."""

from dataclasses import replace

import pytest
from support.inside import Body, Sink, chat, completion

from proxy.admit.keyring import Kept
from proxy.identify.keys import digest_of
from proxy.planning import Known
from proxy.policy.plan_callers import KeyRecord
from proxy.rooms import Generation


class Connection:
    """Calls with one head, one after the other."""

    def __init__(self, path, key="ann"):
        self.path, self.key, self.kept, self.seen = path, key, {}, {}

    async def run(self, **call):
        sink = Sink()
        self.path.upstream.script = [completion()]
        one = replace(self.path.call(key=self.key, **call), kept=self.kept, seen=self.seen)
        await self.path.pipeline.run(one, Body(chat()), sink)
        return sink


@pytest.fixture
async def connection(path):
    return Connection(path)


async def known(connection):
    for _ in range(4):
        assert (await connection.run()).status == 200
    return connection.seen[Known]


async def test_a_call_is_known_again_without_a_look_at_its_credential_and_counts_as_any_other(connection, monkeypatch):
    first = await known(connection)
    path = connection.path
    with monkeypatch.context() as patched:
        patched.setattr(type(path.rooms.identify), "met", None)
        assert (await connection.run()).status == 200
    story = path.story
    assert (story.caller.name, story.operation, story.tries[0].model) == ("ann", "chat", "gpt-4o")
    assert connection.seen[Known] is first and story.caller is first.caller
    await path.assert_nothing_is_left()


async def test_who_comes_back_after_others_is_known_again_by_the_digest_alone(path, monkeypatch):
    ann, bob = Connection(path), Connection(path, "bob")
    bob.kept = ann.kept
    first = {one.key: await known(one) for one in (ann, bob)}
    with monkeypatch.context() as patched:
        patched.setattr(type(path.rooms.identify), "met", None)
        for one in (ann, bob, bob, ann):
            one.seen = {}
            assert (await one.run()).status == 200
            assert path.story.caller.name == one.key and one.seen[Known] is first[one.key]
    revoked = KeyRecord("ann", digest_of(path.call(key="ann").fields["authorization"].removeprefix("Bearer ")), is_revoked=True)
    path.rooms.identify._keys.learn([Kept(revoked)])
    for one, status in ((bob, 200), (ann, 401)):
        one.seen = {}
        assert (await one.run()).status == status
    await path.assert_nothing_is_left()


async def test_who_comes_back_with_another_head_or_under_another_policy_is_found_out_anew(path):
    ann, other = Connection(path), Connection(path)
    first = await known(ann)
    second = await known(other)
    assert second is not first and second.common is not first.common
    ann.seen = {}
    assert (await ann.run()).status == 200
    assert ann.seen[Known] is first, "of each head what is known of it"
    rules = path.rooms.generation.rules
    path.rooms.generation = Generation(rules, path.rooms.generation.prices)
    ann.seen = {}
    for _ in range(3):
        assert (await ann.run()).status == 200
    assert ann.seen[Known].common.generation is path.rooms.generation


async def test_whose_key_was_revoked_is_known_no_more(connection):
    await known(connection)
    path = connection.path
    credential = path.call(key="ann").fields["authorization"].removeprefix("Bearer ")
    revoked = KeyRecord("ann", digest_of(credential), is_revoked=True)
    path.rooms.identify._keys.learn([Kept(revoked)])
    sink = await connection.run()
    assert (sink.status, path.story.end) == (401, "refused:invalid_credentials")
    assert path.story.caller is None and path.story.claims == () and not connection.seen


async def test_under_another_policy_all_is_found_out_anew(connection):
    first = await known(connection)
    path = connection.path
    rules = path.rooms.generation.rules
    path.rooms.generation = Generation(rules, path.rooms.generation.prices)
    for _ in range(3):
        assert (await connection.run()).status == 200
    second = connection.seen[Known]
    assert second is not first and second.common.generation is path.rooms.generation


async def test_connections_of_others_are_told_apart_and_keep_one_thing_each(path):
    ann, bob = Connection(path), Connection(path, "bob")
    bob.kept = ann.kept  # the same head, but for the credential
    for one, name in ((ann, "ann"), (bob, "bob")) * 4:
        assert (await one.run()).status == 200
        (row,) = await path.rows()
        assert path.story.caller.name == row["caller"] == name
    assert ann.seen[Known] is not bob.seen[Known]
    assert ann.seen[Known].common is bob.seen[Known].common
    assert len(ann.seen) == len(bob.seen) == 2


async def test_a_policy_that_looks_at_what_differs_between_calls_of_one_head_knows_none_of_them_again(path_with):
    connection = Connection(await path_with("limits: [{name: x, per: ip, requests: 10/min}]"))
    for _ in range(4):
        assert (await connection.run()).status == 200
    assert Known not in connection.seen


async def test_a_refusal_of_a_call_that_is_known_again_tells_what_any_other_would(path_with):
    connection = Connection(await path_with("limits: [{name: few, match: {caller: ann}, per: caller, requests: 4/min}]"))
    await known(connection)
    sink = await connection.run()
    story = connection.path.story
    assert (sink.status, story.end, story.limit) == (429, "refused:rate_limited", "limit few")
    assert [claim.limit.name for claim in story.claims] == [claim.limit.name for claim in connection.seen[Known].claims]


def lanes(connection):
    """Where the forwarding of its calls begins, by model."""
    known = connection.seen[Known]
    return {model: plan.kept.first[0] for model, plan in {known.model: known.plan, **known.plans}.items()}


async def test_callers_with_one_head_and_our_keys_begin_on_one_lane_others_on_their_own(path):
    ann, bob, elsewhere, own, other = (Connection(path, key) for key in ("ann", "bob", "bob", "Bearer sk-1", "Bearer sk-2"))
    bob.kept = own.kept = other.kept = ann.kept
    for one in (ann, bob, elsewhere, own, other):
        await known(one)
    found = [lanes(one)["gpt-4o"] for one in (ann, bob, elsewhere, own, other)]
    assert found[0] is found[1] and len({id(lane) for lane in found}) == 4
    assert [lane.credential is None for lane in found] == [False, False, False, True, True]
