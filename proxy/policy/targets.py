"""Where one call may go: its first target, then its fallbacks, each checked against every `allow:`. Sends nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from proxy.exchange import Allow, Caller
from proxy.policy.exceptions import Settings
from proxy.policy.lookup import Table
from proxy.policy.match import allowed
from proxy.policy.plan import Facts, Provider, Target
from proxy.refusal import Refusal


class Targets:
    """The providers of one policy, and what its teams allow."""

    def __init__(self, providers: Mapping[str, Provider], team_allow: Mapping[str, Allow]) -> None:
        self._providers, self._team_allow = providers, team_allow
        self._ours = {name: {theirs: ours for ours, theirs in provider.models.items()} for name, provider in providers.items()}

    def asked(self, facts: Facts) -> tuple[Provider, str | None, str | None]:
        """(provider, ours, theirs) as the caller asked: it may give our name or the provider's own. Raises 404 `unknown_provider`."""
        provider = self._providers.get(facts.provider)
        if provider is None:
            message = "this provider is not served; name it under `providers:` with its url"
            raise Refusal(404, "unknown_provider", message, should_retry=False)
        if facts.model is None or not provider.models:
            return provider, facts.model, facts.model
        theirs = provider.models.get(facts.model)
        if theirs is not None:
            return provider, facts.model, theirs
        return provider, self._ours[facts.provider].get(facts.model, facts.model), facts.model

    def of(self, facts: Facts, first: Target, settings: Settings, cheaper: str | None = None) -> tuple[Target, ...]:
        """`first` moved by `send_to` and to the `cheaper` model of a limit, then its fallbacks.

        Raises Refusal 403 `not_allowed`; a fallback not allowed is left out.
        """
        if settings.send_to is not None and first.model is not None:
            first = self._moved(first, settings.send_to, facts.caller)
        if cheaper is not None:
            first = self._moved(first, cheaper, facts.caller)
        allows = tuple(self._allows(facts.caller, settings))
        for who, allow in allows:
            if what := allowed(allow).denies(first, facts.operation, facts.caller.tier, is_billed=facts.is_billed):
                raise _denied(what, who)
        if not settings.fallback or first.model is None:
            return self._timed((first,), settings)
        found = [first]
        for target in self._fallbacks(first, settings.fallback):
            is_allowed = not any(
                allowed(allow).denies(target, facts.operation, facts.caller.tier, is_billed=facts.is_billed) for _, allow in allows
            )
            if is_allowed and _may_go(first, target, facts.caller) and not _is_listed(target, found):
                found.append(target)
        return self._timed(tuple(found), settings)

    def may_list(self, caller: Caller, model: str) -> bool:
        """By what the key and the team of the caller allow."""
        return allowed(caller.allow).lists(model) and allowed(self._team_allow.get(caller.team or "", Allow())).lists(model)

    def _allows(self, caller: Caller, settings: Settings) -> Iterator[tuple[str, Allow]]:
        nothing = Allow()
        team = self._team_allow.get(caller.team or "", nothing)
        for who, allow in (
            ("the caller's key or token", caller.allow),
            (f"team {caller.team}", team),
            ("`rules:` of the policy", settings.allow),
        ):
            if allow != nothing:
                yield who, allow

    def target(self, named: str, home: Provider) -> Target:
        """`provider/model`, or a bare model of the same provider."""
        name, slash, model = named.partition("/")
        provider = self._providers.get(name) if slash else None
        if provider is None:
            provider, model = home, named
        return Target(provider, model, provider.models.get(model, model))

    def _moved(self, first: Target, named: str, caller: Caller) -> Target:
        target = self.target(named, first.provider)
        if not _may_go(first, target, caller):
            own = caller.brings_own_key and target.provider.name != first.provider.name
            why = "the caller's own provider key goes to no other provider" if own else "it speaks another wire format"
            raise Refusal(403, "not_allowed", f"a rule sends this call to provider {target.provider.name}, but {why}", should_retry=False)
        return target

    def _fallbacks(self, first: Target, table: Table[tuple[str, ...]]) -> Iterator[Target]:
        for named in table.of(first.provider.name, first.model or "") or ():
            yield self.target(named, first.provider)

    def _timed(self, targets: tuple[Target, ...], settings: Settings) -> tuple[Target, ...]:
        if not settings.timeouts:
            return targets
        return tuple(
            replace(target, provider=replace(target.provider, timeouts=replace(target.provider.timeouts, **settings.timeouts)))
            for target in targets
        )


def _may_go(first: Target, target: Target, caller: Caller) -> bool:
    """Within the wire family; a caller's own key, and the token that Vertex wants, go to no other provider."""
    if target.provider.name == first.provider.name:
        return True
    return target.provider.family == first.provider.family and target.provider.dialect != "vertex" and not caller.brings_own_key


def _is_listed(target: Target, found: list[Target]) -> bool:
    return any(target.provider.name == one.provider.name and target.model == one.model for one in found)


def _denied(what: str, who: str) -> Refusal:
    fix = {
        "model": "use another model",
        "provider": "use another provider",
        "region": "use a provider of an allowed region",
        "tier": "use another key",
    }[what]
    message = f"this {what} is not in what {who} may use (`allow:`); {fix}, or ask whoever keeps the policy"
    return Refusal(403, "not_allowed", message, should_retry=False)
