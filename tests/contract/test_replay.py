"""Recorded traffic through a real Sluice: what arrives on either side is what was sent but for the listed claims, and the ledger is right.

Run with `-rP` to see the claims with the number of exchanges each was needed for, and every recording that is not counted.
"""

from __future__ import annotations

from collections import Counter

import pytest
from contract import accounts, claims
from contract.recordings import SHARED, exchanges, own_rows, shared_rows
from contract.replaying import Replayed, replay

MASKING = "version: 1\nguard: {pii: {default: mask}, restore: true}\nproviders:\n"
UNREADABLE = ("f773210adc3b3b2e", "own-openai-unknown-path")  # no JSON under a JSON type: passes, unless it must be inspected
RECORDED = 678


def rows_of(where: str):
    if where == "own":
        return own_rows()
    if not SHARED.is_dir():
        pytest.skip("recorded traffic skipped LOUDLY: shared/ is not here")
    return shared_rows()


@pytest.fixture(scope="module", params=["own", "shared"])
def replayed(request, tmp_path_factory) -> Replayed:
    """All of it under the policy of `make run`."""
    done = replay(exchanges(rows_of(request.param)), tmp_path_factory.mktemp("replay"))
    if request.param == "shared":
        assert len(done.exchanges) == RECORDED
    return done


@pytest.fixture(scope="module", params=["own", "shared"])
def masked(request, tmp_path_factory) -> Replayed:
    """The same where personal data is masked and restored."""
    return replay(exchanges(rows_of(request.param)), tmp_path_factory.mktemp("masked"), MASKING)


def test_every_exchange_is_identical_on_both_sides_but_for_the_listed_claims(replayed: Replayed):
    assert different(replayed) == []


def test_every_exchange_has_one_row_with_the_expected_usage_and_a_cost_that_follows_from_it(replayed: Replayed):
    skipped: dict[str, list[str]] = {}
    wrong = []
    for exchange in replayed.exchanges:
        if reason := accounts.not_counted(exchange):
            skipped.setdefault(reason, []).append(exchange.id)
        wrong += [
            f"{exchange.id} {exchange.row['path']}: {line}" for line in accounts.differences(exchange, replayed.ledger.get(exchange.id, []))
        ]
    for reason, ids in skipped.items():
        print(f"usage not counted ({reason}): {', '.join(ids)}")
    assert wrong == []


def test_masking_changes_only_what_it_masks_and_restores_it_in_the_answer(masked: Replayed):
    unreadable = [exchange for exchange in masked.exchanges if exchange.id in UNREADABLE]
    for exchange in unreadable:
        assert exchange.arrived is None and exchange.received is not None
        assert (exchange.received.status, exchange.received.get(b"x-sluice-error")) == (400, b"malformed_json")
    assert different(Replayed([exchange for exchange in masked.exchanges if exchange not in unreadable], masked.ledger)) == []


@pytest.mark.parametrize("masked", ["own"], indirect=True)
def test_what_masking_did_to_our_own_fixtures_is_seen_on_both_sides(masked: Replayed):
    """Guards the claims: were nothing masked, they would explain nothing."""
    ours = [exchange for exchange in masked.exchanges if b"ana@corp.com" in exchange.sent.body]
    for exchange in ours:
        assert exchange.arrived is not None and exchange.answered is not None and exchange.received is not None
        assert claims.stood_for(exchange) == {b"[EMAIL_1]": b"ana@corp.com"}
        assert (b"ana@corp.com" in exchange.received.body) == ("[EMAIL_1]" in exchange.row["response_body"])
    assert len(ours) == 22


def different(replayed: Replayed) -> list[str]:
    used = {"request": Counter(), "answer": Counter()}
    found = []
    for exchange in replayed.exchanges:
        found += [f"{exchange.id} {exchange.entry.name} {exchange.row['path']}: {line}" for line in claims.differences(exchange, used)]
    for side, known in (("request", claims.REQUEST), ("answer", claims.ANSWER)):
        for claim in known:
            print(f"{side} {claim.name} ({used[side][claim.name]} of {len(replayed.exchanges)}): {claim.reason}")
    return found
