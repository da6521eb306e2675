"""A credential that was found good is remembered; what changes about it is still seen at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.identify import who as room
from proxy.identify.keys import KEY_PROTOCOL, digest_of
from proxy.identify.who import Identify
from proxy.policy.plan_callers import CallerRules, KeyRecord, TokenRecord
from proxy.refusal import Refusal

KEY = "slk-" + "k" * 43
RULES = CallerRules(keys=(), tiers=frozenset({"free", "gold"}))


def bearer(key: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {key}")


class State:
    """Keys of the state, by digest; `asked`: how often one was looked for."""

    def __init__(self) -> None:
        self._keys: dict[bytes, KeyRecord] = {}
        self.mark, self.asked = object(), 0

    def find(self, digest: bytes) -> KeyRecord | None:
        self.asked += 1
        return self._keys.get(digest)

    def mint(self, key: str, **more: object) -> None:
        self._keys[digest_of(key)] = KeyRecord("bot", digest_of(key), **more)  # type: ignore[arg-type]  # fields of the record
        self.mark = object()

    def clear(self) -> None:
        self._keys.clear()
        self.mark = object()


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def identify(state, clock) -> Identify:
    return Identify(state, b"secret", clock, None)


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
        state.clear()
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


# -- met: the short way --------------------------------------------------------------------------------------------------


async def test_who_was_met_is_told_at_once_and_a_stranger_is_not(identify, call, state):
    state.mint(KEY, tier="free")
    asked = call(bearer(KEY))
    assert identify.met(asked, RULES) is None
    caller = await identify.who(asked, RULES)
    assert identify.met(asked, RULES) is caller
    assert identify.met(call(bearer("slk-" + "x" * 43)), RULES) is None
    assert identify.met(asked, replace(RULES, tiers=frozenset({"free"}))) is None


@pytest.mark.parametrize("change", [{"is_revoked": True}, {"tier": "gold"}, {"expires_ns": 1}, None])
async def test_who_was_met_is_told_no_more_once_its_key_has_changed(identify, call, state, change):
    state.mint(KEY)
    asked = call(bearer(KEY))
    await identify.who(asked, RULES)
    if change:
        state.mint(KEY, **change)
    else:
        state.clear()
    assert identify.met(asked, RULES) is None


@pytest.mark.parametrize("places", [("state",), ("policy",), ("state", "policy"), ("policy", "state")])
async def test_who_was_met_is_told_no_more_once_a_record_of_its_key_has_ended(identify, call, state, clock, places):
    ends = {place: clock.now_ns() + number * 10**9 for number, place in enumerate(places, 1)}
    if "state" in ends:
        state.mint(KEY, expires_ns=ends["state"])
    rules = replace(RULES, keys=(KeyRecord("bot", digest_of(KEY), expires_ns=ends["policy"]),)) if "policy" in ends else RULES
    asked = call(bearer(KEY))
    caller = await identify.who(asked, rules)
    clock.forward(0.999)
    assert identify.met(asked, rules) is caller
    clock.forward(0.001)
    assert identify.met(asked, rules) is None


async def test_who_was_met_is_looked_for_again_only_when_what_is_known_of_any_key_has_changed(identify, call, state):
    state.mint(KEY)
    asked = call(bearer(KEY))
    caller = await identify.who(asked, RULES)
    for _ in range(3):
        state.mint("slk-" + "o" * 43)
        before = state.asked
        assert [identify.met(asked, RULES) for _ in range(3)] == [caller] * 3 and state.asked == before + 1
    state.mint(KEY, is_revoked=True)
    for _ in range(2):
        assert identify.met(asked, RULES) is None, "whoever was refused once is not taken for good afterwards"


FORMS = [bearer(KEY), ("authorization", f"bearer {KEY}"), ("Authorization", f"Bearer  {KEY}"), ("Authorization", KEY), ("x-api-key", KEY),
         ("x-api-key", f"Bearer {KEY}"), ("api-key", f"bearer {KEY}"), ("Authorization", f"Basic {KEY}"), ("x-goog-api-key", KEY),
         ("Authorization", "Bearer "), ("Authorization", "Bearer"), ("x-api-key", ""), ("x-api-key", "sluice")]  # fmt: skip


@pytest.mark.parametrize("lines", [[], *[[form] for form in FORMS], [FORMS[0], FORMS[4]], [FORMS[0], ("x-api-key", "sk-other")]])
@pytest.mark.parametrize("before", FORMS)
async def test_whatever_form_a_credential_has_who_was_met_is_whom_the_long_way_finds(identify, call, state, before, lines):
    state.mint(KEY)
    tokens = tuple([TokenRecord(KeyRecord("shared", digest_of(text))) for text in (f"Bearer {KEY}", f"bearer {KEY}")])
    rules = replace(RULES, tokens=tokens, anonymous="free")

    async def found(asked):
        try:
            return await identify.who(asked, rules)
        except Refusal as no:
            return no.code

    await found(call(before))
    asked = call(*lines)
    true = await found(asked)
    assert identify.met(asked, rules) in (None, true)


async def test_a_credential_that_came_before_on_its_connection_is_not_hashed_again_but_asked_for_again(
    identify, call, state, clock, monkeypatch
):
    state.mint(KEY, tier="free")
    asked = replace(call(bearer(KEY)), seen={})
    first = await identify.who(asked, RULES)
    assert identify.met(asked, RULES) is first and KEY not in repr(asked.seen)
    with monkeypatch.context() as patched:
        patched.setattr(room, "sha256", None)
        assert identify.met(asked, RULES) is first
    for change in ({"tier": "gold"}, {"tier": "gold", "expires_ns": clock.now_ns() + 1}):
        state.mint(KEY, **change)
        assert identify.met(asked, RULES) is None, "it is another record"
        caller = await identify.who(asked, RULES)
        assert caller.tier == "gold"
        assert identify.met(asked, RULES) is identify.met(asked, RULES) is caller
    assert identify.met(asked, replace(RULES, tiers=frozenset())) is None, "these are other rules"
    clock.forward(1.0)
    assert identify.met(asked, RULES) is None, "it has ended"
    state.mint(KEY, is_revoked=True)
    assert identify.met(asked, RULES) is None, "it is revoked"


async def test_a_stranger_is_met_until_its_key_is_minted_or_strangers_are_turned_away(identify, call, state):
    asked = replace(call(bearer("sk-other")), seen={})
    assert identify.met(asked, RULES) is None
    caller = await identify.who(asked, RULES)
    assert caller.kind == "pass_through"
    assert identify.met(asked, RULES) is identify.met(asked, RULES) is caller and "sk-other" not in repr(asked.seen)
    assert identify.met(asked, replace(RULES, pass_through=None)) is None
    state.mint("sk-other", is_revoked=True)
    assert identify.met(asked, RULES) is None
    with pytest.raises(Refusal):
        await identify.who(asked, RULES)


async def test_who_brings_no_credential_is_met_on_its_connection_and_nowhere_else(identify, call):
    rules = replace(RULES, anonymous="free")
    asked = replace(call(), seen={})
    caller = await identify.who(asked, rules)
    assert caller.kind == "anonymous" and identify.met(asked, rules) is caller
    assert identify.met(call(), rules) is None and identify.met(replace(call(bearer(KEY)), seen={}), rules) is None
    strict = replace(RULES, anonymous=None)
    assert identify.met(asked, strict) is None
    with pytest.raises(Refusal) as no:
        await identify.who(asked, strict)
    assert no.value.code == "missing_credentials" and not asked.seen
