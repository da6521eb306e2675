"""Which key is tried first."""

from proxy.forward.credentials import Credentials
from proxy.forward.failure import OK, Outcome, of_answer
from proxy.policy.plan import Credential, Origin, Provider

A, B = Credential("a", "secret-a"), Credential("b", "secret-b")
ORIGIN = Origin("https", "x", 443, b"x")
TWO = Provider("p", "openai", "openai", ORIGIN, credentials=(A, B))
AUTH = of_answer(401, (), None, is_our_key=True, now_ns=0)
CREDIT = of_answer(429, (), "credit", is_our_key=True, now_ns=0)


def test_keys_keep_their_order_and_no_key_is_one_choice_too():
    keys = Credentials()
    assert keys.order(TWO, 0) == (A, B)
    assert keys.order(Provider("q", "openai", "openai", ORIGIN), 0) == (None,)
    keys.saw(TWO, None, AUTH, 0)
    assert keys.order(TWO, 0) == (A, B)


def test_a_key_without_credit_rests_at_once_and_comes_back():
    keys = Credentials()
    keys.saw(TWO, A, CREDIT, 100)
    assert keys.order(TWO, 100) == (B, A)
    assert keys.order(TWO, 161) == (A, B)


def test_a_refused_key_rests_after_three_refusals_in_a_row():
    keys = Credentials()
    for outcome in (AUTH, AUTH, OK, AUTH, AUTH):
        keys.saw(TWO, A, outcome, 100)
        assert keys.order(TWO, 100) == (A, B)
    keys.saw(TWO, A, AUTH, 100)
    assert keys.order(TWO, 100) == (B, A)
    keys.saw(TWO, A, Outcome("5xx", True), 100)
    assert keys.order(TWO, 100) == (B, A)
    assert keys.order(Provider("p", "openai", "openai", ORIGIN, credentials=(A,)), 100) == (A,)
