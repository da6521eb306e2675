"""Only the masked bytes of a body change; no spelling hides a value; a refusal names classes, never values."""

import json
import re
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.guard import mask
from proxy.guard.find import ENTITIES
from proxy.guard.mask import Blocked, Inspected, inspect_other
from proxy.guard.unmask import Swap
from proxy.guard.vault import Vault
from proxy.policy.plan import GuardRules
from proxy.refusal import Refusal

ALL = GuardRules(entities=dict.fromkeys(ENTITIES, "mask"), restore=True)
SURFACE = ("messages.*.content", "messages.*.content.*.text", "messages.*.arguments!json", "messages.*.input.**")
VALUES = {
    "bob@x.org": "EMAIL",
    "+1 415-555-0132": "PHONE",
    "4111 1111 1111 1111": "CREDIT_CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "219-09-9999": "US_SSN",
    "10.0.0.1": "IP_ADDRESS",
    "2001:db8::1": "IP_ADDRESS",
}


def inspect(raw, surface, rules):
    """As it leaves: what nothing was found in, as it came."""
    return mask.inspect(raw, surface, rules) or Inspected(raw, {}, Vault())


def body(content, **dumping):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}, **dumping).encode()


@pytest.mark.parametrize("value", VALUES)
def test_each_class_is_masked_and_counted(value):
    seen = inspect(body(f"It is {value}, ok? {value}"), SURFACE, ALL)
    label = VALUES[value]
    assert seen.body == body(f"It is [{label}_1], ok? [{label}_1]")
    assert seen.found == {(label.lower(), "in", "mask"): 2}
    assert seen.vault.value(f"{label}_1") == value


@pytest.mark.parametrize(
    "spelling",
    [
        "bob@x.org",
        r"\u0062ob@x.org",
        r"bob\u0040x.org",
        "".join(f"\\u{ord(char):04X}" for char in "bob@x.org"),
        r"\nbob@x.org\n",
        r"\tbob@x.org\r",
        r"\"bob@x.org\"",
        r"\\bob@x.org\\",
        r"\/bob@x.org\/",
        r"caf\u00e9 bob@x.org \ud83d\ude00",
        "é bob@x.org 😀",
    ],
)
def test_no_spelling_hides_a_value_and_the_bytes_around_it_stay(spelling):
    raw = b'{"messages":[{"content":"' + spelling.encode() + b'"}]}'
    seen = inspect(raw, SURFACE, ALL)
    text, masked = (orjson.loads(source)["messages"][0]["content"] for source in (raw, seen.body))
    assert masked == text.replace("bob@x.org", "[EMAIL_1]") != text
    before, after = seen.body.split(b"[EMAIL_1]")
    assert raw.startswith(before)
    assert raw.endswith(after)


@pytest.mark.parametrize(
    "message",
    [
        {"arguments": json.dumps({"to": "bob@x.org", "cc": ["é", {"deep": "line\nbob@x.org"}]})},
        {"arguments": json.dumps({"code": json.dumps({"inner": "a\nbob@x.org"})})},
        {"arguments": json.dumps({"bob@x.org": 1})},
        {"arguments": "no JSON: bob@x.org"},
        {"arguments": '"bob@x.org"'},
        {"input": {"to": {"list": [["bob@x.org"]]}}},
        {"input": {"bob@x.org": 1}},
        {"content": json.dumps({"tool": "result\n\tbob@x.org"})},
        {"content": json.dumps({"tool": "é\nbob@x.org"})},
        {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "bob@x.org"}]},
    ],
)
def test_values_are_masked_at_any_depth_and_the_json_stays_valid(message):
    raw = json.dumps({"messages": [message]}).encode()
    seen = inspect(raw, SURFACE, ALL)
    assert b"bob@x.org" not in seen.body
    assert seen.body.replace(b"[EMAIL_1]", b"bob@x.org") == raw
    (masked,) = orjson.loads(seen.body)["messages"]
    if "arguments" in message and message["arguments"][0] == "{":
        orjson.loads(masked["arguments"])


def test_escapes_of_json_inside_a_plain_text_hide_nothing_and_its_numbers_are_read():
    content = '{"a":"line\\nbob@x.org","b":"\\t+1 415-555-0132","card":4111111111111111}'
    masked = orjson.loads(inspect(body(content), SURFACE, ALL).body)["messages"][0]["content"]
    assert masked == '{"a":"line\\n[EMAIL_1]","b":"\\t[PHONE_1]","card":[CREDIT_CARD_1]}'
    spelt = '\n {"a":"\\u0062ob@x.org"}'
    assert orjson.loads(inspect(body(spelt), SURFACE, ALL).body)["messages"][0]["content"] == '\n {"a":"[EMAIL_1]"}'


def test_a_slash_that_is_spelt_as_an_escape_hides_nothing():
    raw = body("call 030/12345678 or +49/30/1234567").replace(b"/", b"\\/")
    assert orjson.loads(inspect(raw, SURFACE, ALL).body)["messages"][0]["content"] == "call [PHONE_1] or [PHONE_2]"
    inner = body('{"tel":"030\\/12345678"}')
    assert orjson.loads(inspect(inner, SURFACE, ALL).body)["messages"][0]["content"] == '{"tel":"[PHONE_1]"}'


def test_thousands_of_values_and_of_taken_names_are_masked_in_linear_time():
    taken = " ".join(f"[EMAIL_{n}]" for n in range(1, 5001))
    seen = inspect(body(taken + "".join(f" u{n}@x.org" for n in range(5000))), SURFACE, ALL)
    assert len(seen.vault) == 5000
    assert seen.vault.value("EMAIL_10000") == "u4999@x.org"


def test_what_the_surface_does_not_reach_is_left_alone():
    raw = b'{"model":"bob@x.org","user":"bob@x.org","messages":[{"name":"bob@x.org","content":"hi"}]}'
    seen = inspect(raw, SURFACE, ALL)
    assert (seen.body, seen.found, len(seen.vault)) == (raw, {}, 0)
    assert inspect(raw, (), ALL).body == raw


TEXT = st.lists(
    st.sampled_from([*VALUES, "[EMAIL_1]", "[PHONE_", "\\", '"', "\n", " ", "é", ",", "\x00"]) | st.text(max_size=6), max_size=8
).map(" ".join)
STYLES = st.sampled_from([{}, {"ensure_ascii": False}, {"indent": 1}, {"separators": (",", ":")}])


@given(TEXT, TEXT, STYLES)
def test_masked_bytes_alone_differ_and_restoring_gives_the_text_back(one, two, style):
    one, two = (text.encode("utf-8", "replace").decode() for text in (one, two))
    arguments = json.dumps({"x": two}, **style)
    raw = json.dumps({"messages": [{"content": one}, {"arguments": arguments}]}, **style).encode()
    seen = inspect(raw, SURFACE, ALL)
    swap = Swap(seen.vault)
    first, second = orjson.loads(seen.body)["messages"]
    assert swap.swapped(first["content"]) == one if len(seen.vault) else seen.body == raw
    if len(seen.vault):
        assert swap.swapped(orjson.loads(second["arguments"])["x"]) == two
    given = {token for token in re.findall(rb"\[[A-Z_]+_\d+\]", seen.body) if seen.vault.value(token[1:-1].decode())}
    assert not any(token in raw for token in given)
    kept = re.split(b"|".join(map(re.escape, given)), seen.body) if given else [seen.body]
    at = 0
    for piece in kept:  # what is kept stands in the original, in this order
        at = raw.index(piece, at) + len(piece)
    assert raw.startswith(kept[0])
    assert raw.endswith(kept[-1])


def test_a_placeholder_that_the_caller_wrote_is_never_given_out_however_it_is_spelt():
    raw = b'{"messages":[{"content":"[EMAIL_1] \\u005bEMAIL_2] bob@x.org"}]}'
    assert b"[EMAIL_3]" in inspect(raw, SURFACE, ALL).body


def test_flag_counts_and_changes_nothing_and_off_does_not_look():
    raw = body("bob@x.org 10.0.0.1 +1 415-555-0132")
    seen = inspect(raw, SURFACE, GuardRules(entities={"email": "flag", "ip_address": "off", "phone": "mask"}))
    assert seen.body == raw.replace(b"+1 415-555-0132", b"[PHONE_1]")
    assert seen.found == {("email", "in", "flag"): 1, ("phone", "in", "mask"): 1}


def test_block_refuses_and_names_classes_and_counts_only():
    rules = GuardRules(entities={"email": "mask", "credit_card": "block", "iban": "block"})
    with pytest.raises(Blocked) as no:
        inspect(body("bob@x.org 4111111111111111 5500000000000004 DE89370400440532013000"), SURFACE, rules)
    assert (no.value.status, no.value.code, no.value.should_retry) == (400, "content_blocked", False)
    assert "2 credit_card, 1 iban" in no.value.message
    assert not re.search(r"\d{4}|bob", no.value.message)
    assert no.value.found == {("email", "in", "mask"): 1, ("credit_card", "in", "block"): 2, ("iban", "in", "block"): 1}


@pytest.mark.parametrize(
    ("glob", "masked"),
    [
        ("*@example.com", "A@Example.COM [EMAIL_1] [IP_ADDRESS_1]"),
        ("10.*", "[EMAIL_1] [EMAIL_2] 10.0.0.1"),
        ("*.*", "A@Example.COM b@x.org 10.0.0.1"),
        ("@x.org", "[EMAIL_1] [EMAIL_2] [IP_ADDRESS_1]"),
    ],
)
def test_what_is_ignored_stays(glob, masked):
    rules = GuardRules(entities=dict.fromkeys(ENTITIES, "mask"), ignore=(glob, "nothing"))
    assert inspect(body("A@Example.COM b@x.org 10.0.0.1"), SURFACE, rules).body == body(masked)


@pytest.mark.parametrize("action", ["block", "pass"])
def test_a_fault_of_our_own_refuses_or_passes_flagged(action, monkeypatch):
    def breaks(*_):
        raise RuntimeError("bob@x.org")

    monkeypatch.setattr(mask, "texts", breaks)
    raw = body("bob@x.org")
    rules = GuardRules(entities={"email": "mask"}, on_error=action)
    if action == "pass":
        seen = inspect(raw, SURFACE, rules)
        assert (seen.body, seen.found) == (raw, {("uninspected", "in", "flag"): 1})
    else:
        with pytest.raises(Refusal) as no:
            inspect(raw, SURFACE, rules)
        assert (no.value.status, no.value.code) == (500, "internal")
        assert "bob" not in no.value.message


def test_what_no_rule_can_read_passes_is_flagged_or_refused():
    kinds = ("image", "image", "pdf")
    assert inspect_other(kinds, GuardRules(entities={"email": "mask"})) == {("image", "in", "flag"): 2, ("pdf", "in", "flag"): 1}
    assert inspect_other(kinds, GuardRules(entities={"email": "mask"}, uninspected="pass")) == {}
    assert inspect_other(kinds, GuardRules(uninspected="block")) == {}
    assert inspect_other((), GuardRules(entities={"email": "mask"}, uninspected="block")) == {}
    with pytest.raises(Blocked) as no:
        inspect_other(kinds, GuardRules(entities={"email": "mask"}, uninspected="block"))
    assert (no.value.status, no.value.code) == (400, "uninspected_content")
    assert "2 image, 1 pdf" in no.value.message
    assert no.value.found == {("image", "in", "block"): 2, ("pdf", "in", "block"): 1}


def test_what_was_inspected_shows_no_body():
    assert "bob" not in repr(inspect(body("bob@x.org"), SURFACE, ALL))


CARD = 4111111111111111


@pytest.mark.parametrize(
    "message",
    [
        {"input": {"card": CARD, "list": [CARD, 1.5, {"deep": -CARD}]}},
        {"arguments": json.dumps({"card": CARD, "é": "line\n"})},
        {"arguments": json.dumps({"code": json.dumps({"card": CARD, "u": "é"})})},
    ],
)
def test_a_value_spelt_as_a_number_is_masked_whole_and_the_body_stays_json(message):
    seen = inspect(json.dumps({"messages": [message]}).encode(), SURFACE, ALL)
    assert str(CARD).encode() not in seen.body
    assert b"[CREDIT_CARD_1]" in seen.body
    nested = orjson.loads(seen.body)["messages"][0].get("arguments")
    while isinstance(nested, str) and nested.startswith("{"):
        nested = json.loads(nested)
        nested = nested.get("code", nested.get("card"))
    assert nested in (None, "[CREDIT_CARD_1]")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"max_tokens":4111111111111111}',
        b'{"messages":[{"content":4111111111111111}]}',
        b'{"messages":[{"input":{"score":0.4111111111111111}}]}',
    ],
)
def test_numbers_elsewhere_and_fractions_stay(raw):
    assert inspect(raw, SURFACE, ALL).body == raw


def test_rules_are_told_apart_by_what_they_look_for_and_what_they_ignore():
    entities = {"email": "mask"}
    raw = body("bob@x.org 10.0.0.1")
    assert inspect(raw, SURFACE, GuardRules(entities=entities)).found == {("email", "in", "mask"): 1}
    assert inspect(raw, SURFACE, GuardRules(entities=entities, ignore=("*@x.org",))).found == {}
    assert inspect(raw, SURFACE, GuardRules(entities={"ip_address": "flag"})).found == {("ip_address", "in", "flag"): 1}
    assert inspect(raw, SURFACE, GuardRules(entities=entities)).found == {("email", "in", "mask"): 1}


def test_what_rules_look_with_lives_and_goes_with_them_and_makes_no_two_of_them_differ():
    rules, others = GuardRules(entities={"email": "flag"}), GuardRules(entities={"email": "flag"})
    assert inspect(body("bob@x.org"), SURFACE, rules).found
    assert rules == others
    changed = replace(rules, ignore=("*@x.org",))
    assert (inspect(body("bob@x.org"), SURFACE, changed).found, changed.sight is rules.sight) == ({}, False)


@pytest.mark.parametrize("content", ["hi", "10 000 @ 5"])
def test_of_a_body_that_holds_nothing_there_is_nothing_to_say(content):
    assert mask.inspect(body(content), SURFACE, ALL) is None
