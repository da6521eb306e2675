"""What the first of many attempts tells the others, and what it does not."""

from dataclasses import replace

import pytest

from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Call, Caller, Route
from proxy.forward.attempts import Step
from proxy.forward.breaker import Breakers
from proxy.forward.lane import Lane
from proxy.forward.shape import Shaping
from proxy.policy.plan import BreakerRules, Credential, GuardRules, Origin, Plan, Pricing, Provider, RetryRules, Target, Timeouts

PROVIDER = Provider("openai", "openai", "openai", Origin("https", "openai.example", 443, b"openai.example"))
TARGET, KEY = Target(PROVIDER, "m", "m"), Credential("K", "sk-ours")
PLAN = Plan(1, Caller("bot", "key"), "chat", "m", (TARGET,), (), GuardRules(), RetryRules(), BreakerRules(), Timeouts(), Pricing())
BODY = b'{"model":"m"}'


def shaping(op=Operation("chat")):  # noqa: B008  # it is frozen
    return Shaping(Call("u", "u", False, "POST", Route("openai", "/v1/x", "", "/v1/x"), (), {}, "::1", 0, 0.0), op, PROVIDER, (), None)


def shape(lane, shaping, plan=PLAN, asked=Asked("m"), is_reworded=False):
    return lane.shape(shaping, plan, asked, BODY, BODY, is_reworded)


def test_the_form_of_a_request_that_goes_out_as_it_came_is_at_hand_for_the_next():
    lane, head = Lane(Step(TARGET, KEY, "first")), shaping()
    form, body, asks = shape(lane, head)
    assert (lane.form is form, lane.shaping is head, body is BODY, asks) == (True, True, True, False)
    other = shaping()
    assert shape(lane, other)[0] is lane.form is not form
    assert lane.shaping is other, "one form is kept, however many heads there are"


@pytest.mark.parametrize(
    "way",
    [
        {"asked": Asked("m", stream=True)},
        {"asked": Asked("alias")},
        {"is_reworded": True},
        {"plan": replace(PLAN, pricing=Pricing(inject_max_tokens=True))},
        {"shaping": shaping(Operation("chat", model="m"))},
    ],
)
def test_of_what_may_be_changed_on_its_way_nothing_is_kept(way):
    lane = Lane(Step(TARGET, KEY, "first"))
    shape(lane, way.pop("shaping", shaping()), **way)
    assert (lane.form, lane.shaping) == (None, None)


def test_a_turn_is_asked_for_anew_until_the_breaker_is_closed_and_as_soon_as_it_is_not():
    lane, breakers = Lane(Step(TARGET, KEY, "first")), Breakers(lambda: 0.0, lambda *_: None)
    assert lane.turn.tally.is_over
    turn = lane.enter(breakers, PLAN, 0.0)
    assert (lane.turn is turn, turn.tally.is_over) == (True, False)
    for _ in range(5):
        turn.saw(False, 0.0)
    assert lane.turn.tally.is_over
    for at in (1.0, 50.0):
        odd = lane.enter(breakers, PLAN, at)
        assert (odd.is_allowed, odd.tally.is_over) == (at == 50.0, True)
