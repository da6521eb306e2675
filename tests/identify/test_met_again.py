"""A credential that was found good is remembered; what changes about it is still seen at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.identify import who as room
from proxy.identify.keys import KEY_PROTOCOL, digest_of
from proxy.identify.who import Identify
from proxy.policy.plan_callers import CallerRules, KeyRecord
from proxy.refusal import Refusal

KEY = "slk-" + "k" * 43
RULES = CallerRules(keys=(), tiers=frozenset({"free", "gold"}))


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


class State:
    """Keys of the state, by digest."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyRecord] = {}

    def mint(self, key: str, **more: object) -> None:
        self.keys[digest_of(key)] = KeyRecord("bot", digest_of(key), **more)  # type: ignore[arg-type]  # fields of the record


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def identify(state, clock) -> Identify:
    return Identify(state.keys.get, b"secret", clock, None)


async def test_the_same_key_is_the_same_caller_each_time(identify, call, state):
    state.mint(KEY, tier="free")
    assert await identify.who(call(bearer(KEY)), RULES) is await identify.who(call(bearer(KEY)), RULES)


async def test_a_key_that_changes_in_the_state_is_another_caller_from_then_on(identify, call, state):
    state.mint(KEY, tier="free")
    before = await identify.who(call(bearer(KEY)), RULES)
    state.mint(KEY, tier="gold")
    assert (before.tier, (await identify.who(call(bearer(KEY)), RULES)).tier) == ("free", "gold")


@pytest.mark.parametrize("change", [{"is_revoked": True}, None])
async def test_a_key_that_is_revoked_or_gone_is_refused_though_it_was_good_before(identify, call, state, change):
    state.mint(KEY)
    await identify.who(call(bearer(KEY)), RULES)
    if change:
        state.mint(KEY, **change)
    else:
        state.keys.clear()
    with pytest.raises(Refusal) as no:
        await identify.who(call(bearer(KEY)), RULES)
    assert no.value.code == "invalid_credentials"


@pytest.mark.parametrize("place", ["state", "policy"])
async def test_a_key_expires_though_it_was_good_before(identify, call, state, clock, place):
    until = clock.now_ns() + 10**9
    rules = RULES
    if place == "state":
        state.mint(KEY, expires_ns=until)
    else:
        rules = replace(RULES, keys=(KeyRecord("bot", digest_of(KEY), expires_ns=until),))
    await identify.who(call(bearer(KEY)), rules)
    clock.forward(1.0)
    with pytest.raises(Refusal) as no:
        await identify.who(call(bearer(KEY)), rules)
    assert no.value.code == "expired_credentials"


async def test_a_new_policy_forgets_who_was_met_under_the_one_before(identify, call, state):
    state.mint(KEY, tier="gold")
    await identify.who(call(bearer(KEY)), RULES)
    with pytest.raises(Refusal) as no:
        await identify.who(call(bearer(KEY)), replace(RULES, tiers=frozenset({"free"})))
    assert no.value.code == "unknown_tier"


async def test_keys_of_strangers_are_remembered_up_to_a_bound(identify, call, monkeypatch):
    monkeypatch.setattr(room, "MAX_STRANGERS", 8)
    names = [(await identify.who(call(bearer(f"sk-{number}")), RULES)).name for number in range(30)]
    assert len(set(names)) == 30
    assert len(identify._strangers) <= 8


async def test_where_a_second_credential_comes_in_another_field_the_place_of_the_first_is_no_answer(identify, call, state):
    state.mint(KEY)
    first, second = call(bearer(KEY)), call(bearer(KEY), ("x-api-key", "sk-other"))
    await identify.who(first, RULES)
    with pytest.raises(Refusal) as no:
        await identify.who(second, RULES)
    assert no.value.code == "ambiguous_credentials"


async def test_a_key_among_the_websocket_protocols_is_seen_though_a_head_like_it_held_none(identify, call, state):
    state.mint(KEY)
    kept: dict[object, object] = {}
    harmless = replace(call(bearer(KEY), ("Sec-WebSocket-Protocol", "realtime")), kept=kept)
    await identify.who(harmless, RULES)
    with pytest.raises(Refusal) as no:
        await identify.who(replace(call(bearer(KEY), ("Sec-WebSocket-Protocol", f"{KEY_PROTOCOL}sk-other")), kept=kept), RULES)
    assert no.value.code == "ambiguous_credentials"
