"""What is known of a key only ever grows, whoever hears of what first."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.keyring import Kept, Keyring, NoSuchKey, dumped, ended, is_alive, joined, loaded, revoked, rotation
from proxy.exchange import Allow
from proxy.policy.plan import Rate, Spend
from proxy.policy.plan_callers import KeyRecord

HOUR = 3600 * 10**9
BOB = Kept(KeyRecord("bob", b"b" * 32, "free", "ops", Allow(models=("gpt-*",)), {"requests": (Rate(5, 60),), "spend": (Spend(7, "day"),),
           "tokens": (), "concurrency": None}), 1)  # fmt: skip
OLD = KeyRecord("bob", b"o" * 32, "free")

instants = st.none() | st.integers(2, 9)
facts = st.builds(
    lambda expires, rotated, dead: replace(
        BOB, record=replace(BOB.record, expires_ns=expires, is_revoked=dead is not None), rotated_ns=rotated, revoked_ns=dead
    ),
    instants,
    instants,
    instants,
)


@given(st.lists(facts, min_size=1, max_size=6), st.randoms())
def test_in_whatever_order_and_however_often_two_sidecars_hear_of_it_they_agree(heard, dice):
    one, other = Keyring(), Keyring()
    shuffled = [*heard, *heard]
    dice.shuffle(shuffled)
    for fact in heard:
        one.learn([fact])
    for fact in shuffled:
        other.learn([fact])
    assert list(one) == list(other)
    (known,) = one
    assert known.record.is_revoked == any(fact.revoked_ns for fact in heard), "a revocation is never taken back"
    ends = [fact.record.expires_ns for fact in heard if fact.record.expires_ns is not None]
    assert known.record.expires_ns == min(ends, default=None), "an end is never put off"
    assert one.learn(heard) == []


@given(facts, facts)
def test_joining_is_the_same_from_either_side(one, other):
    assert joined(one, other) == joined(other, one)


def test_what_the_policy_says_of_a_key_yields_to_what_was_minted():
    of_the_policy = Kept(replace(BOB.record, tier="gold"))
    assert joined(of_the_policy, BOB) == joined(BOB, of_the_policy) == BOB


@given(facts)
def test_a_key_is_kept_whole(kept):
    assert loaded(kept.record.digest, dumped(kept)) == kept


def test_a_key_of_a_state_before_keys_could_be_rotated_is_still_good():
    text = b'{"tier":"free","team":null,"allow":{"models":null,"providers":null,"regions":null,"tiers":null},"overrides":{},"expires_ns":5}'
    kept = loaded(b"d" * 32, text)
    assert (kept.record.tier, kept.record.expires_ns, kept.revoked_ns, kept.record.is_revoked) == ("free", 5, None, False)


def test_a_rotated_key_is_like_the_one_before_and_both_are_alive_for_a_while():
    ring = Keyring([BOB])
    fresh, old = rotation(ring, "bob", b"n" * 32, HOUR, 10, ())
    assert fresh.record == replace(BOB.record, digest=b"n" * 32) and fresh.created_ns == 10
    assert old.record.expires_ns == 10 + HOUR and is_alive(old, 9 + HOUR) and not is_alive(old, 10 + HOUR)
    ring.learn([fresh, old])
    newest, *others = rotation(ring, "bob", b"m" * 32, 0, 20, ())
    assert newest.record.expires_ns is None, "the end of an overlap is not inherited"
    assert [it.record.expires_ns for it in others] == [20, 20]


def test_a_rotation_never_puts_an_end_off():
    assert ended(replace(BOB, record=replace(BOB.record, expires_ns=5)), 100, 1).record.expires_ns == 5


def test_a_key_of_the_policy_can_be_rotated_and_revoked_by_its_name():
    fresh, old = rotation(Keyring(), "bob", b"n" * 32, HOUR, 10, (OLD,))
    assert (fresh.record.tier, old.record.digest, old.record.expires_ns) == ("free", OLD.digest, 10 + HOUR)
    ring = Keyring([BOB])
    assert {kept.record.digest for kept in ring.named("bob", (OLD,))} == {BOB.record.digest, OLD.digest}
    dead = revoked(Kept(OLD), 7)
    ring.learn([dead])
    assert ring.find(OLD.digest).is_revoked and ring.named("bob", (OLD,)).count(dead) == 1


@pytest.mark.parametrize("ring", [Keyring(), Keyring([revoked(BOB, 5)]), Keyring([ended(BOB, 5, 5)])])
def test_where_no_key_is_alive_there_is_nothing_to_rotate(ring):
    with pytest.raises(NoSuchKey):
        rotation(ring, "bob", b"n" * 32, HOUR, 10, ())


def test_an_id_names_a_key_and_a_piece_of_one_does_not():
    ring = Keyring([BOB])
    assert ring.with_id(BOB.id, ()) == [BOB]
    assert ring.with_id(BOB.id[:7], ()) == ring.with_id("0" * 8, ()) == []
    assert ring.with_id(OLD.digest.hex()[:16], (OLD,)) == [Kept(OLD)]
    assert ring.has_name("bob") and not ring.has_name("ann")


def test_the_mark_is_another_one_whenever_a_record_is_and_else_stays():
    ring = Keyring([BOB])
    for news in ([Kept(OLD)], [ended(BOB, 50, 5)], [revoked(BOB, 5)]):
        before = ring.mark
        assert ring.learn(news) and ring.mark is not before
        told = ring.mark
        assert not ring.learn(news) and ring.mark is told, "that is known already"


def test_what_many_keys_have_in_common_is_in_memory_once():
    one, other = [loaded(digest * 32, dumped(BOB)).record for digest in (b"x", b"y")]
    assert one.tier is other.tier and one.team is other.team and one.allow is other.allow
    assert (one.digest, one.tier, one.team, one.allow) == (b"x" * 32, BOB.record.tier, BOB.record.team, BOB.record.allow)
