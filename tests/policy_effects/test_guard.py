"""What must not leave: every entity with every action, by what reaches the provider, what the caller gets and what is counted."""

import asyncio
import itertools
import json
import sys

import pytest
import pytest_asyncio
from support.echo import echo
from support.provider import Provider
from support.sluice import Sluice
from support.world import World, spelt, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUES = {
    "email": "bob.smith@corp.test",
    "phone": "+1 415 555 2671",
    "credit_card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "us_ssn": "536-22-1234",
    "ip_address": "203.0.113.7",
}
ACTIONS = ("off", "flag", "mask", "block")
POLICY = """
providers: {openai: {url: A_URL}}
guard:
  pii: {default: mask, phone: flag, credit_card: block, iban: 'off', us_ssn: mask, ip_address: mask}
  ignore: ['*@example.com', 203.0.113.9]
  uninspected: block
rules:
  - {match: {'header:x-case': keep}, guard: {restore: false}}
  - {match: {'header:x-case': one-word}, guard: {pii: flag, uninspected: flag}}
  - {match: {'header:x-case': nothing}, guard: off}
  - {match: {'header:x-case': other-ignore}, guard: {ignore: '*@corp.test'}}
  - {match: {'header:x-case': pass}, guard: {uninspected: pass}}
"""
POLICY += "".join(
    f"  - {{match: {{'header:x-case': {entity}-{action}}}, guard: {{pii: {{default: 'off', {entity}: '{action}'}}}}}}\n"
    for entity, action in itertools.product(VALUES, ACTIONS)
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("guard"), POLICY) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


async def said(here: World, text: str, x_case: str = "", **more: object):
    return await here.chat(text=text, headers=[("x-case", x_case)], **more)


async def is_as(here: World, action: str, entity: str, x_case: str = "") -> None:
    """This entity is treated so: at the provider, at the caller, in the reply's headers and in the metrics."""
    value, before = VALUES[entity], await here.metric("pii_found_total", entity=entity, direction="in", action=action)
    here.forget()
    got = await said(here, f"write to {value} today", x_case)
    if action == "block":
        assert (got.status, got.code) == (400, "content_blocked") and not here.provider.seen
        assert value not in got.body.decode() and got.header("x-sluice-guard") == f"blocked {entity}=1"
    else:
        there = here.last.json["messages"][0]["content"]
        assert got.status == 200 and (value in there) is (action != "mask")
        if action == "mask":
            assert there == f"write to [{entity.upper()}_1] today"
            assert got.json["choices"][0]["message"]["content"] == f"heard {value}"
        expected = {"off": None, "flag": f"flagged {entity}=1", "mask": f"masked {entity}=1"}[action]
        assert got.header("x-sluice-guard") == expected
    found = await here.metric("pii_found_total", entity=entity, direction="in", action=action) - before
    assert found == (0 if action == "off" else 1)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("entity", VALUES)
async def test_a_rule_gives_each_entity_each_action(here, entity, action):
    await is_as(here, action, entity, f"{entity}-{action}")
    others = " ".join(value for name, value in VALUES.items() if name != entity)
    got = await said(here, others, f"{entity}-{action}")
    assert got.status == 200 and here.last.json["messages"][0]["content"] == others  # what is not named stays off


@pytest.mark.parametrize(("entity", "action"), [("email", "mask"), ("phone", "flag"), ("credit_card", "block"), ("iban", "off")])
async def test_the_policy_gives_each_entity_its_action_and_default_to_the_rest(here, entity, action):
    await is_as(here, action, entity)


async def test_without_restore_the_caller_gets_the_placeholders(here):
    assert (await said(here, "a@corp.test", "keep")).json["choices"][0]["message"]["content"] == "heard [EMAIL_1]"
    assert (await said(here, "a@corp.test")).json["choices"][0]["message"]["content"] == "heard a@corp.test"


async def test_ignored_values_are_no_finding(here):
    got = await said(here, "a@example.com 203.0.113.9 b@corp.test")
    assert here.last.json["messages"][0]["content"] == "a@example.com 203.0.113.9 [EMAIL_1]"
    assert got.header("x-sluice-guard") == "masked email=1"
    await said(here, "a@example.com b@corp.test", "other-ignore")
    assert here.last.json["messages"][0]["content"] == "[EMAIL_1] b@corp.test"


async def test_one_word_means_every_entity_and_off_means_no_guard(here):
    text = " ; ".join(VALUES.values())
    got = await said(here, text, "one-word")
    assert here.last.json["messages"][0]["content"] == text
    assert all(f"{entity}=1" in got.header("x-sluice-guard") for entity in VALUES)
    got = await said(here, text, "nothing")
    assert got.status == 200 and got.header("x-sluice-guard") is None


IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


async def test_what_no_rule_can_read_is_blocked_flagged_or_passed(here):
    for x_case, status, code, header in (
        ("", 400, "uninspected_content", "blocked image=1"), ("one-word", 200, None, "flagged image=1"), ("pass", 200, None, None),
    ):  # fmt: skip
        doc = {"model": "gpt-4o", "messages": [{"role": "user", "content": IMAGE}]}
        got = await here.ask("POST", "/openai/v1/chat/completions", json.dumps(doc).encode(), headers=[("x-case", x_case)])
        assert (got.status, got.code, got.header("x-sluice-guard")) == (status, code, header)


async def test_only_the_masked_bytes_of_the_body_change(here):
    raw = '{ "model":"gpt-4o" ,\n"messages": [ {"role":"user","content":"caf\\u00e9 \\ud83d\\ude00 x@corp.test \\/ é"} ], "seed":1.50 }'
    await here.ask("POST", "/openai/v1/chat/completions", raw.encode())
    assert here.last.body.decode() == raw.replace("x@corp.test", "[EMAIL_1]")


async def test_the_same_value_has_the_same_placeholder_and_a_taken_one_is_not_given_out(here):
    got = await said(here, "[EMAIL_1] a@corp.test b@corp.test a@corp.test")
    assert here.last.json["messages"][0]["content"] == "[EMAIL_1] [EMAIL_2] [EMAIL_3] [EMAIL_2]"
    assert got.json["choices"][0]["message"]["content"] == "heard [EMAIL_1] a@corp.test b@corp.test"


async def test_a_blocked_call_keeps_its_request_and_no_money_and_is_logged_without_the_value(here):
    await asyncio.sleep(1.1)  # rows of refusals are sampled above ten a second
    got = await said(here, VALUES["credit_card"])
    row = await here.row(got)
    assert (row["kind"], row["end"], row["cost_nanousd"]) == ("refusal", "refused:content_blocked", 0)
    await asyncio.sleep(0.2)
    assert all(value not in here.sluice.logged() for value in VALUES.values())


class Sabotaged(Sluice):
    """A sidecar whose recogniser is broken: the one fault that a guard of ours can have."""

    def command(self) -> list[str]:
        broken = "import proxy.guard.mask as m; m.texts = None; from proxy.__main__ import main; raise SystemExit(main())"
        return [sys.executable, "-c", broken, *super().command()[3:]]


async def test_when_the_guard_itself_fails_the_call_is_blocked_or_passed_as_the_policy_says(tmp_path):
    policy = """
    providers: {openai: {url: A_URL}}
    guard: {pii: mask}
    rules: [{match: {'header:x-case': pass}, guard: {on_error: pass}}]
    """
    async with Provider(echo) as provider:
        sluice = Sabotaged(tmp_path, spelt(policy, [provider.url]))
        try:
            await sluice.start()
            one = World(sluice, [provider])
            got = await said(one, "a@corp.test")
            assert (got.status, got.code) == (500, "internal") and not provider.seen
            got = await said(one, "a@corp.test", "pass")
            assert got.status == 200 and got.header("x-sluice-guard") == "flagged uninspected=1"
            assert (await said(one, "nothing to find here")).status == 200
            # the top level says it too
            one.sluice.policy.write_text("")
            await one.reload(policy.replace("pii: mask}", "pii: mask, on_error: pass}"))
            assert (await said(one, "a@corp.test")).status == 200
        finally:
            await sluice.stop()
