"""Document → `Rulebook`: secrets read, every match compiled, once per generation. Runs nothing per call but its closures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from proxy.exchange import Allow
from proxy.policy.callers import allow_of, compile_callers, is_local
from proxy.policy.document import Document
from proxy.policy.exceptions import Exceptions, breaker_of
from proxy.policy.limits import Limits
from proxy.policy.lookup import Table
from proxy.policy.origin import redis_url_problem
from proxy.policy.plan import Alerts, Claim, Facts, OnStateDown, Plan, PriceOverride, Pricing, Rulebook, ServerRules, Target
from proxy.policy.problems import SecretError
from proxy.policy.providers import compile_providers
from proxy.policy.secrets import Secrets
from proxy.policy.spelt import spelt_models
from proxy.policy.targets import Targets
from proxy.policy.values import Ref
from proxy.refusal import Refusal

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
DEFAULT_STATE = "sqlite:"  # no path: the default directory of the user
MODELLESS = frozenset({"files", "batches", "models"})  # operations whose body names neither model nor end user
UNTEXTUAL = ("multipart/", "audio/", "image/", "video/", "application/octet-stream", "application/pdf", "application/zip")


def compile_policy(
    document: Document,
    *,
    environ: Mapping[str, str],
    base: FilePath,
    generation: int,
    listen: str | None = None,
    resolve: bool = True,
    now_ns: int | None = None,
) -> Rulebook:
    """`base` is the policy's folder; `listen` overrides server.listen; `resolve` False leaves secrets empty (`sluice check`);
    `now_ns` (ns since the epoch) lets keys that are past their day be warned of.

    Raises SecretError with every reference that leads nowhere.
    """
    model = document.model
    secrets = Secrets(document, environ, base, resolve=resolve)
    server = _server(model, secrets, listen)
    providers = compile_providers(model, secrets)
    callers = compile_callers(document, secrets, server.listen)
    state = secrets.text(model.state, ("state",)) or DEFAULT_STATE if isinstance(model.state, Ref) else model.state or DEFAULT_STATE
    webhook = secrets.optional(model.alerts.webhook, ("alerts", "webhook")) if model.alerts else None
    ledger_stream = secrets.optional(model.observe.ledger_stream, ("observe", "ledger_stream"))
    if ledger_stream and (message := redis_url_problem(ledger_stream)) is not None:
        secrets.problems.append(document.problem(("observe", "ledger_stream"), message))
    if secrets.problems:
        raise SecretError(secrets.problems)
    past = [
        f"the key of caller {key.name} is past its day"
        for key in callers.keys
        if now_ns is not None and (key.expires_ns or now_ns + 1) <= now_ns
    ]
    exceptions = Exceptions(model)
    closures = _Closures(model, generation, Targets(providers, _team_allow(model)), Limits(model, moves=exceptions.moves), exceptions)
    return Rulebook(
        generation=generation,
        server=server,
        callers=callers,
        providers=providers,
        default_provider=model.default_provider,
        pricing=closures.pricing,
        prices=tuple(
            PriceOverride(name, price.input, price.output, price.cached_input, price.cache_write, price.discount)
            for name, price in model.prices.items()
        ),
        state=state,
        time_zone=model.time_zone,
        max_keys=model.max_keys,
        identities=model.observe.identities,
        log_level=model.observe.logs.level,
        known_models=spelt_models(model),
        early=closures.early,
        plan=closures.plan,
        degraded=closures.degraded,
        may_list=closures.targets.may_list,
        needs_body=closures.needs_body,
        must_read=closures.must_read,
        reads=exceptions.reads | closures.limits.reads,
        namespace=model.namespace or "default",
        durability=model.durability,
        on_state_down=OnStateDown(model.on_state_down.money, model.on_state_down.rates),
        alerts=None if model.alerts is None else Alerts(model.alerts.at, webhook),
        ledger_keep_s=model.ledger.keep,
        ledger_max_bytes=model.ledger.max_size,
        ledger_stream=ledger_stream,
        limits=closures.limits.all,
        warnings=(*map(str, document.warnings), *secrets.warnings, *past),
    )


class _Closures:
    """The questions of a `Rulebook`, over what was compiled once."""

    def __init__(self, model: PolicyModel, generation: int, targets: Targets, limits: Limits, exceptions: Exceptions) -> None:
        self._generation, self.targets, self.limits, self._exceptions = generation, targets, limits, exceptions
        self._breaker = breaker_of(model.breaker)
        self._fallback_on = frozenset(model.fallback_on)
        self._on_client_gone = model.on_client_gone
        price = model.fallback_price
        self.pricing = Pricing(
            model.unknown_price, model.unmetered, price.input, price.output, model.default_max_tokens, model.inject_max_tokens
        )
        self._team_models = {name for name, team in model.teams.items() if team.allow.models is not None}
        rules_allow = any(rule.allow is not None and rule.allow.models is not None for rule in model.rules)
        body_users = any(source.startswith("body:") for source in model.callers.end_user)
        self._reads_models = exceptions.reads_body or rules_allow or body_users

    def early(self, facts: Facts) -> tuple[Claim, ...]:
        """The claims that headers decide."""
        return self.limits.claims(facts, early=True, at_limit=self._exceptions.settings(facts).at_limit)

    def degraded(self, facts: Facts, plan: Plan, reached: Collection[str]) -> Plan:
        """The plan with a cheaper model, where one of the limits `reached` (their names) lists one that the caller may use; else `plan`."""
        first = plan.targets[0]
        for claim in plan.claims:
            if claim.limit.name not in reached or claim.limit.degrade is None or first.model is None:
                continue
            cheaper = Table(claim.limit.degrade.models).of(first.provider.name, first.model)
            if cheaper is not None:
                with suppress(Refusal):  # the caller may not use it
                    return self.plan(facts, cheaper)
        return plan

    def plan(self, facts: Facts, cheaper: str | None = None) -> Plan:
        """The whole plan; limits and rules know the model by our name, limits see where the call really goes first."""
        provider, ours, theirs = self.targets.asked(facts)
        if ours != facts.model:
            facts = replace(facts, model=ours)
        settings = self._exceptions.settings(facts)
        targets = self.targets.of(facts, Target(provider, ours, theirs), settings, cheaper)
        first = targets[0]
        counted = facts if settings.send_to is None and cheaper is None else replace(facts, provider=first.provider.name, model=first.model)
        return Plan(
            generation=self._generation,
            caller=facts.caller,
            operation=facts.operation,
            model=ours,
            targets=targets,
            claims=self.limits.claims(counted, early=False, at_limit=settings.at_limit),
            guard=settings.guard,
            retry=settings.retry,
            breaker=self._breaker,
            timeouts=first.provider.timeouts,
            pricing=self.pricing,
            fallback_on=self._fallback_on,
            on_client_gone=self._on_client_gone,
        )

    def needs_body(self, facts: Facts) -> bool:
        """For bodies that would otherwise stream: could a rule that matches want to read it? Text rules want no multipart and no media."""
        return self.must_read(facts) or (not _is_untextual(facts) and self._exceptions.settings(facts).guard.is_on)

    def must_read(self, facts: Facts) -> bool:
        """Likewise, where a body that cannot be read is refused. A guard that only flags lets it pass: it would not have held it back."""
        caller = facts.caller
        if facts.operation not in MODELLESS and (
            self._reads_models or self.limits.reads_body or caller.allow.models is not None or caller.team in self._team_models
        ):
            return True
        if _is_untextual(facts):
            return False
        guard = self._exceptions.settings(facts).guard
        holds_back = guard.is_on and (guard.uninspected == "block" or set(guard.entities.values()) - {"off", "flag"})
        return bool(holds_back) or self.limits.counts_output or bool(caller.overrides)


def _is_untextual(facts: Facts) -> bool:
    return facts.headers.get("content-type", "").lower().startswith(UNTEXTUAL)


def start_problem(rulebook: Rulebook, listen: str) -> str | None:
    """Why this must not start on `listen`: strangers could spend a configured provider key."""
    if is_local(listen) or rulebook.callers.is_anonymous_stated:
        return None
    with_keys = [name for name, provider in rulebook.providers.items() if provider.credentials]
    if not with_keys:
        return None
    return (
        f"{listen} can be reached from other machines and provider {with_keys[0]} has a key: say who may call without one, "
        "`callers: {anonymous: deny}` or a tier; or listen on 127.0.0.1"
    )


def _team_allow(model: PolicyModel) -> Mapping[str, Allow]:
    return {name: allow_of(team.allow) for name, team in model.teams.items()}


def _server(model: PolicyModel, secrets: Secrets, listen: str | None) -> ServerRules:
    server = model.server
    where = listen or server.listen
    hosts = server.hosts
    if "hosts" not in server.model_fields_set and is_local(where) and not where.startswith("unix:"):
        hosts = LOOPBACK_HOSTS
    return ServerRules(
        listen=where,
        admin=server.admin,
        admin_token=secrets.optional(server.admin_token, ("server", "admin_token")),
        hosts=hosts,
        max_body=server.max_body,
        max_upload=server.max_upload,
        drain_s=server.drain,
        cors=server.cors,
    )
