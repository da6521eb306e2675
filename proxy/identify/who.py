"""Says who is calling, from the headers alone. Nobody falls down the list: what claims to be ours and is not good is refused here."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from operator import eq
from typing import Any, Protocol

from proxy.exchange import Call, Caller
from proxy.identify.claims import issuer_of, unknown
from proxy.identify.keys import PLACE, PREFIX, KeyTable, credential_of, digest_of, expired, invalid, is_well_formed
from proxy.identify.tokens import KeySource, Tokens
from proxy.policy.plan_callers import CallerRules, KeyRecord, TokenRecord
from proxy.ports import Clock
from proxy.refusal import Refusal

ANONYMOUS_KEY = "sluice"  # for SDKs that insist on some key
MAX_MET = 200_000  # credentials remembered: those that the policy and the state know,
MAX_STRANGERS = 4096  # and of providers' own, which come from outside, no more than so many
REVOKED_KEY = "this key was revoked; ask for a new one"
SEND_ONE = "send a Sluice key (slk-…) or a token as `Authorization: Bearer`, x-api-key, api-key, x-goog-api-key or ?key="


class Keys(Protocol):
    """The keys minted into the state (`admit.keyring`)."""

    @property
    def mark(self) -> object:
        """Another one whenever what is known of any key has changed."""
        ...

    @property
    def find(self) -> Callable[[bytes], KeyRecord | None]:
        """By the SHA-256 of the whole key."""
        ...


@dataclass(slots=True, eq=False)
class Met:
    """A credential that was found good under these rules, with the records that made it so."""

    rules: CallerRules
    digest: bytes
    minted: KeyRecord | None
    declared: KeyRecord | None
    caller: Caller
    until: int | None  # it is dead from this instant on, in ns
    known: Any = None  # what is known of who calls so and with the head that came last
    mark: object = None  # of the keys, when `minted` was found among them last


class Identify:
    """`secret` is the state's own: it makes hashes of keys worthless elsewhere."""

    def __init__(self, keys: Keys, secret: bytes, clock: Clock, jwks: KeySource) -> None:
        self._keys, self._secret, self._clock = keys, secret, clock
        self._tokens = Tokens(clock, jwks)
        self._table = KeyTable(CallerRules())
        self._met: dict[bytes, Met] = {}  # under the rules of the table, by digest; b"" is nobody's
        self._strangers: dict[bytes, Met] = {}  # those with a key of a provider

    def met(self, call: Call, rules: CallerRules) -> Caller | None:
        """Whose credential was found good before, and still is: what `who` would say. None: ask that."""
        seen = call.seen
        met: Any = (seen and seen.get(Met)) or self.met_by_digest(call)
        if seen is not None and met is not None:
            seen[Met] = met
        return met.caller if met is not None and met.rules is rules and self.is_met(met) else None

    def is_met(self, met: Met) -> bool:
        """Is it still good, the rules being the same?"""
        mark = self._keys.mark
        if met.mark is not mark:
            if self._keys.find(met.digest) is not met.minted:  # of which a change is another record
                return False
            met.mark = mark
        until = met.until
        return until is None or self._clock.now_ns() < until

    def met_by_digest(self, call: Call) -> Met | None:
        """No form of the credential is looked at: it is another one, and not met, unless it has the digest of a good one."""
        place: Any = call.kept.get(PLACE)
        if not place:
            return None
        said = call.fields[place]
        if place == "authorization":
            if not said.startswith("Bearer "):
                return None
            said = said[7:]
        digest = digest_of(said)
        return self._met.get(digest) or self._strangers.get(digest)

    async def who(self, call: Call, rules: CallerRules, is_own_provider: Callable[[str, str], bool] = eq) -> Caller:
        """The caller, its tier and team checked against `rules`. Of one key the same object each time, while nothing of it changes.

        `is_own_provider(own, asked)`: may a key of provider `own` go to provider `asked`? Raises Refusal: 400 `ambiguous_credentials`;
        401 `missing_credentials`, `invalid_credentials`, `expired_credentials`; 403 `bad_signature`, `not_allowed`, `unknown_tier`,
        `unknown_team`; 503 `state_unavailable`.
        """
        if call.seen is not None:
            call.seen.clear()  # of what `met` saw, something has changed
        if self._table.rules is not rules:
            self._table, self._met, self._strangers = KeyTable(rules), {}, {}
        credential = credential_of(call)
        if credential is None or credential == ANONYMOUS_KEY:
            if b"" not in self._met:
                self._remember(b"", None, None, _placed(_anonymous(rules), rules))
            nobody = self._met[b""]
            if call.seen is not None:
                call.seen[Met] = nobody
            return nobody.caller
        digest = digest_of(credential)
        minted = self._keys.find(digest)
        if minted is not None:
            if minted.is_revoked:  # also where the policy file lists it: a revocation always wins
                raise invalid(REVOKED_KEY)
            self._check_alive(minted)  # a policy file cannot revive a key that the state let end
        met = self._met.get(digest)
        if met is not None and met.minted is minted:
            if met.declared is not None:
                self._check_alive(met.declared)
            return met.caller
        return await self._named(credential, digest, minted, call, rules, is_own_provider)

    def _remember(self, digest: bytes, minted: KeyRecord | None, declared: KeyRecord | None, caller: Caller) -> Caller:
        if len(self._met) >= MAX_MET:
            self._met.clear()
        if minted is not None:
            digest = minted.digest  # the same object: the state finds it without a comparison
        ends = [record.expires_ns for record in (minted, declared) if record is not None and record.expires_ns is not None]
        self._met[digest] = Met(self._table.rules, digest, minted, declared, caller, min(ends, default=None))
        return caller

    async def _named(
        self,
        credential: str,
        digest: bytes,
        minted: KeyRecord | None,
        call: Call,
        rules: CallerRules,
        is_own_provider: Callable[[str, str], bool],
    ) -> Caller:
        """The order of policy.example.yaml, `callers`."""
        if credential.startswith(PREFIX):
            declared, caller = self._of_key(credential, digest, minted)
            return self._remember(digest, minted, declared, _placed(caller, rules))
        token = self._table.token(digest)
        if token is not None and token.own_provider is None:
            return self._remember(digest, minted, token.record, _placed(self._of_token(token), rules))
        issuer = issuer_of(credential, rules.issuers) if rules.issuers else None
        if issuer is not None:
            return _placed(await self._tokens.caller(credential, issuer), rules)
        if token is not None:
            return _placed(self._of_own_key(token, call.route.provider, is_own_provider), rules)
        stranger = self._strangers.get(digest)
        return stranger.caller if stranger is not None else self._pass_through(credential, digest, rules)

    def _of_key(self, key: str, digest: bytes, minted: KeyRecord | None) -> tuple[KeyRecord | None, Caller]:
        if not is_well_formed(key):
            raise invalid("a Sluice key is slk- and 43 characters; this one was cut or changed")
        declared = self._table.key(digest)
        record = declared or minted
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise invalid("this Sluice key is not known here, or no longer")
        self._check_alive(declared)
        return declared, _of_record(record)

    def _of_token(self, token: TokenRecord) -> Caller:
        self._check_alive(token.record)
        return replace(_of_record(token.record), kind="token")

    def _of_own_key(self, token: TokenRecord, asked: str, is_own_provider: Callable[[str, str], bool]) -> Caller:
        self._check_alive(token.record)
        own = token.own_provider or ""
        if not is_own_provider(own, asked):
            raise Refusal(403, "not_allowed", f"not_allowed: this key is one of provider {own} and goes nowhere else", should_retry=False)
        return replace(_of_record(token.record), kind="own_key", own_provider=own)

    def _check_alive(self, record: KeyRecord | None) -> None:
        if record is not None and record.expires_ns is not None and self._clock.now_ns() >= record.expires_ns:
            raise expired("this key")

    def _pass_through(self, credential: str, digest: bytes, rules: CallerRules) -> Caller:
        if rules.pass_through is None:
            raise invalid(f"this key is not known here and keys of providers are not taken; {SEND_ONE}")
        name = "pass-through:" + _keyed_hash(self._secret, "pass-through", credential)[:12]
        caller = _placed(Caller(name=name, kind="pass_through", tier=rules.pass_through or None, key=name), rules)
        if len(self._strangers) >= MAX_STRANGERS:
            self._strangers.clear()
        self._strangers[digest] = Met(rules, digest, None, None, caller, None)
        return caller


def _anonymous(rules: CallerRules) -> Caller:
    if rules.anonymous is None:
        raise Refusal(401, "missing_credentials", f"missing_credentials: {SEND_ONE}", should_retry=False)
    return Caller(name="anonymous", kind="anonymous", tier=rules.anonymous or None)


def _of_record(record: KeyRecord) -> Caller:
    return Caller(
        name=record.name,
        kind="key",
        tier=record.tier,
        team=record.team,
        key=record.name,
        allow=record.allow,
        overrides=record.overrides,
    )


def _placed(caller: Caller, rules: CallerRules) -> Caller:
    """With the default tier where it names none; a tier or team that the policy does not declare is refused."""
    if caller.tier is None and rules.default_tier is not None:
        caller = replace(caller, tier=rules.default_tier)
    if caller.team is not None and caller.team not in rules.teams:
        raise unknown("team", "the caller's team is not declared")
    if caller.tier is not None and caller.tier not in rules.tiers:
        raise unknown("tier", "the caller's tier is not declared")
    if caller.allow.tiers is not None and caller.tier not in caller.allow.tiers:
        raise Refusal(403, "not_allowed", "not_allowed: this credential may not use its tier, or names none", should_retry=False)
    return caller


def end_user(fields: Mapping[str, str], body_user: str | None, rules: CallerRules, secret: bytes) -> str | None:
    """The end user that the first filled source of `callers.end_user` names, as a keyed hash: the value itself is not kept."""
    for source in rules.end_user:
        where, _, name = source.partition(":")
        value = fields.get(name.lower()) if where == "header" else body_user
        if value and value.strip():
            return _keyed_hash(secret, "end-user", value.strip())[:24]
    return None


def _keyed_hash(secret: bytes, purpose: str, value: str) -> str:
    return hmac.new(secret, f"{purpose}\0{value}".encode("utf-8", "surrogatepass"), sha256).hexdigest()
