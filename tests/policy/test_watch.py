import asyncio
import contextlib
import os
import threading

import pytest

from proxy.policy.watch import Watch, keeping, load, removed_limits, stamps

LIMIT = "limits: [{{name: l, requests: {}/min}}]\n"


class Seen:
    """What a watch reported, with a wait that ends as soon as it comes."""

    def __init__(self):
        self.changes, self.errors, self._news = [], [], asyncio.Event()

    def changed(self, rulebook, restarts):
        self.changes.append((rulebook, restarts))
        self._news.set()

    def failed(self, problems):
        self.errors.append(problems)
        self._news.set()

    async def news(self):
        await asyncio.wait_for(self._news.wait(), 20)
        self._news.clear()


@contextlib.asynccontextmanager
async def watching(path, environ=None, *, runs=True):
    seen = Seen()
    loaded = load(path, environ=environ or {}, generation=1)
    watch = Watch(
        path, loaded, environ=environ or {}, on_change=seen.changed, on_error=seen.failed, now_ns=lambda: 0, poll_s=0.02, debounce_s=0.01
    )
    task = asyncio.create_task(watch.run()) if runs else None
    await asyncio.sleep(0.03)
    try:
        yield watch, seen
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(LIMIT.format(1))
    return path


def count(rulebook):
    return rulebook.limits[0].requests[0].count


async def test_a_changed_file_is_a_new_generation(policy):
    async with watching(policy) as (_, seen):
        policy.write_text(LIMIT.format(2))
        await seen.news()
    (rulebook, restarts) = seen.changes[-1]
    assert (rulebook.generation, count(rulebook), restarts) == (2, 2, ())


async def test_a_swapped_configmap_symlink_is_a_change(tmp_path):
    for name, number in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.yaml").write_text(LIMIT.format(number))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "policy.yaml").symlink_to("..data/policy.yaml")
    async with watching(tmp_path / "policy.yaml") as (_, seen):
        (tmp_path / "..tmp").symlink_to("two")
        os.rename(tmp_path / "..tmp", tmp_path / "..data")
        await seen.news()
    assert count(seen.changes[-1][0]) == 2


async def test_a_bad_file_keeps_the_last_good_one_and_is_told_once(policy):
    async with watching(policy) as (_, seen):
        policy.write_text("limits: [{nam: l}]\n")
        await seen.news()
        await asyncio.sleep(0.3)
        assert (len(seen.errors), seen.changes) == (1, [])
        policy.write_text(LIMIT.format(3))
        await seen.news()
    assert (seen.changes[-1][0].generation, count(seen.changes[-1][0])) == (2, 3)


@pytest.mark.parametrize("left", ["", "\n", "# everything commented out\n"])
async def test_a_file_that_was_emptied_does_not_drop_every_limit(policy, left):
    async with watching(policy) as (_, seen):
        policy.write_text(left)
        await seen.news()
        assert "empty" in str(seen.errors[0][0]) and not seen.changes
        policy.write_text("version: 1\n")
        await seen.news()
    assert seen.changes[-1][0].limits == ()


async def test_a_file_that_vanishes_is_a_problem_and_no_change(policy):
    async with watching(policy) as (_, seen):
        policy.unlink()
        await seen.news()
    assert "cannot be read" in seen.errors[0][0].message and seen.changes == []


async def test_a_rotated_secret_file_is_read_again(tmp_path):
    policy = tmp_path / "policy.yaml"
    (tmp_path / "key").write_text("old")
    policy.write_text("providers: {openai: {key: file:key}}\nserver: {admin_token: file:key}\n")
    async with watching(policy) as (_, seen):
        (tmp_path / "key").write_text("new")
        await seen.news()
    rulebook, restarts = seen.changes[-1]
    assert rulebook.providers["openai"].credentials[0].secret == "new"
    assert rulebook.server.admin_token == "new" and restarts == ()


async def test_a_secret_that_comes_late_makes_its_policy_good(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("")
    async with watching(policy) as (_, seen):
        policy.write_text("providers: {openai: {key: file:key}}\n")
        await seen.news()
        assert "file:key cannot be read" in seen.errors[0][0].message
        (tmp_path / "key").write_text("new")
        await seen.news()
    assert seen.changes[-1][0].providers["openai"].credentials[0].secret == "new"


async def test_a_reload_reads_at_once_and_tells_every_time(policy):
    async with watching(policy, runs=False) as (watch, seen):
        assert await watch.reload() and seen.changes[-1][0].generation == 2
        policy.write_text("no: [")
        assert not await watch.reload() and not await watch.reload()
    assert len(seen.errors) == 2


async def test_a_policy_without_a_file_can_be_reloaded_too():
    async with watching(None, runs=False) as (watch, seen):
        assert await watch.reload() and seen.changes[-1][0].generation == 2


def test_server_and_state_keep_their_values_and_ask_for_a_restart(policy):
    old = load(policy, environ={"T": "t"}, generation=1)
    policy.write_text("server: {listen: 127.0.0.1:9, admin_token: env:T}\nstate: 'memory:'\ntime_zone: Europe/Berlin\n")
    kept, restarts = keeping(old, load(policy, environ={"T": "t"}, generation=2))
    assert restarts == (
        "server.listen changed: needs a restart",
        "server.admin_token changed: needs a restart",
        "state changed: needs a restart",
        "time_zone changed: needs a restart, the state counts days and months by it",
    )
    assert (kept.rulebook.server, kept.rulebook.state, kept.rulebook.time_zone) == (old.rulebook.server, "sqlite:", "UTC")


def test_how_and_under_which_name_the_state_is_kept_asks_for_a_restart(policy):
    old = load(policy, environ={}, generation=1)
    policy.write_text("durability: disk\nnamespace: prod\n")
    kept, restarts = keeping(old, load(policy, environ={}, generation=2))
    assert restarts == (
        "durability changed: needs a restart",
        "namespace changed: needs a restart, all that is shared is counted under it",
    )
    assert kept.rulebook.namespace == "default"
    policy.write_text("namespace: default\n")
    assert keeping(old, load(policy, environ={}, generation=3))[1] == (), "what it is without being named"


def test_a_limit_that_held_money_and_is_gone_is_found(rulebook):
    old = rulebook("tiers: {a: {spend: $1/day}, b: {requests: 1/min}}\nlimits: [{name: x, spend: $1/day}, {name: y, spend: $1/day}]")
    new = rulebook("tiers: {a: {spend: $2/day}}\nlimits: [{name: x, requests: 1/min}]")
    assert [limit.name for limit in removed_limits(old, new)] == ["limit x", "limit y"]


async def test_a_file_that_stays_as_it_is_never_wakes_the_event_loop(policy, monkeypatch):
    loop = asyncio.get_running_loop()
    woken, looked = [], []
    monkeypatch.setattr("proxy.policy.watch.stamps", lambda files: looked.append(files) or stamps(files))
    async with watching(policy) as (_, seen):
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: woken.append(args))
        before = len(looked)
        while len(looked) < before + 5:
            await asyncio.sleep(0.01)
        monkeypatch.undo()
    assert (woken, seen.changes, seen.errors) == ([], [], [])


async def test_nothing_looks_at_a_file_whose_watch_has_ended(policy):
    async with watching(policy):
        assert "policy watch" in {thread.name for thread in threading.enumerate()}
    async with asyncio.timeout(20):
        while "policy watch" in {thread.name for thread in threading.enumerate()}:
            await asyncio.sleep(0.01)
