"""What one attempt takes before it leaves, and what it cost in the end: quote, bound, hold; price, settle. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from proxy.admit.estimate import bound
from proxy.admit.jobs import job_id, named
from proxy.dialect.jobs import WORK_UNITS, Job, dumped, loaded
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Most, Row, Story, Try, Usage
from proxy.forward.lane import Lane
from proxy.meter.price import UNITS, Prices, Quote, bound_cost
from proxy.meter.row import usual_cost
from proxy.policy.plan import Plan, Pricing, Provider
from proxy.ports import Intent
from proxy.rooms import Generation, Rooms

WORK = Operation("other")  # billed and metered: the usage of a job is known when it is priced
TIERLESS = (None, "auto")  # the tier is a default of the provider's account, which replies alone tell


async def hold(
    rooms: Rooms,
    generation: Generation,
    plan: Plan,
    story: Story,
    try_: Try,
    provider: Provider,
    op: Operation,
    asked: Asked,
    text_bytes: int,
) -> Quote:
    """Takes what the attempt may use at most, durably, before a byte of it leaves. See `intended`; raises 402, 429, 503 too: then nothing
    is held."""
    quote, intent = _looked_at(rooms, generation.prices, plan, story, try_, provider, op, asked, text_bytes)
    try:
        await take(rooms, generation, try_, intent)
    except BaseException:
        release(rooms, try_)
        raise
    return quote


async def take(rooms: Rooms, generation: Generation, try_: Try, intent: Intent) -> None:
    """Holds it. Raises Refusal 400 `exceeds_limit`; 402, 429, 503."""
    await rooms.store.hold(intent)
    try_.is_held = True
    if generation.rules.alerts is not None:
        rooms.alerts.saw(intent.claims, rooms.store.standings(intent.claims))


def intended(
    rooms: Rooms,
    generation: Generation,
    plan: Plan,
    story: Story,
    try_: Try,
    lane: Lane,
    op: Operation,
    asked: Asked,
    text_bytes: int,
) -> tuple[Quote, Intent | None]:
    """By which row the attempt is priced, and what is to be held for it; None: it is held already. `text_bytes`: of the request, decoded.

    Raises Refusal 400 `unpriced_model`, `unmetered_operation`. Else `try_` is worth its estimate from now on, whatever happens, until it
    is settled or released.
    """
    prices, model, at_ns = generation.prices, lane.model, try_.at_ns
    if not (asked.is_usual and model):
        return _looked_at(rooms, prices, plan, story, try_, lane.provider, op, asked, text_bytes)
    # text alone, as most calls: the same, told in advance
    known = lane.known
    if known is None or known.is_forgotten:
        known = lane.known = rooms.store.lessons.of((lane.name, model))
    since, until, quote, window, reads, short, inward, outward, total, per = lane.tariff
    if lane.prices is not prices or lane.tier is not known.tier or not since <= at_ns < until:
        lane.prices, lane.tier = prices, known.tier
        lane.tariff = prices.tariff(lane.provider, model, known.tier, at_ns)
        _, _, quote, window, reads, short, inward, outward, total, per = lane.tariff
    sent = text_bytes if text_bytes < reads else reads
    if quote is None or sent > short:
        return _looked_at(rooms, prices, plan, story, try_, lane.provider, op, asked, text_bytes)
    try_.known = known
    limit, default = asked.max_tokens, plan.pricing.default_max_tokens
    output = default if limit is None else limit
    output = output if output < window else window
    total += sent * inward
    nanousd = -(-(total + output * outward) // per)
    like = try_.like = known.like(0, sent)
    if plan.counts_tokens:
        read = ceil(sent * like.share)  # `like.tokens`, but for the call
        tokens = read if read < sent else sent
        tokens += known.output_tokens(default, quote.row.window) if limit is None else output
    else:  # nobody asks
        tokens = sent + output
    try_.held_usage = sent, output, 0, limit is None
    try_.held_nanousd = try_.cost_nanousd = nanousd
    try_.price_row = quote.row.said
    values = rooms.books.held(story, try_, plan.kept, sent, output)
    if rooms.store.hold_at_once(try_.id, story.call.uid, plan.claims, tokens, nanousd, values, at_ns):
        try_.is_held = True
        if generation.rules.alerts is not None:
            rooms.alerts.saw(plan.claims, rooms.store.standings(plan.claims))
        return quote, None
    return quote, Intent(try_.id, story.call.uid, plan.claims, tokens, nanousd, values, output, nanousd + -total // per)


def _looked_at(
    rooms: Rooms, prices: Prices, plan: Plan, story: Story, try_: Try, provider: Provider, op: Operation, asked: Asked, text_bytes: int
) -> tuple[Quote, Intent]:
    """The same of any attempt."""
    known, tier = rooms.store.lessons.of((try_.provider, try_.model or "")), asked.tier
    try_.known = known
    if tier in TIERLESS:
        tier = known.tier or tier
    quote, most, nanousd, of_output, given = quoted(prices, plan, provider, try_.model, op, asked, text_bytes, try_.at_ns, tier)
    sent, output, kind, is_open = try_.held_usage = most
    like = try_.like = known.like(kind, sent)
    tokens = sent + output
    if not op.is_billed:
        tokens = 0
    elif plan.counts_tokens:  # as learned of the model, else the bound of what this request brings and asks
        tokens = min(like.tokens(sent), given)
        if is_open:
            tokens += known.output_tokens(plan.pricing.default_max_tokens, quote.row.window) * max(1, asked.choices)
        else:
            tokens += output
    try_.held_nanousd = try_.cost_nanousd = nanousd
    try_.price_row = quote.row.said
    values = rooms.books.held(story, try_, plan.kept, sent, output)
    each = output if asked.choices <= 1 else output // asked.choices
    return quote, Intent(try_.id, story.call.uid, plan.claims, tokens, nanousd, values, each, of_output)


def quoted(
    prices: Prices,
    plan: Plan,
    provider: Provider,
    model: str | None,
    op: Operation,
    asked: Asked,
    text_bytes: int,
    at_ns: int,
    tier: str | None,
) -> tuple[Quote, Most, int, int, int]:
    """By which row an attempt is priced, what it may use at most, what that costs (nano-dollars), the output's share of it, and the
    tokens that it may read at most, the provider's own additions too.

    `tier` of service: as asked for, or as replies have told that it will be.
    """
    if asked.media and model:
        asked = replace(asked, model=model)  # the model that answers counts images in its own way
    pricing = plan.pricing
    tools = tuple([unit for unit, _ in asked.tools]) if asked.tools else ()
    quote = prices.quote(pricing, plan.is_under_spend_limit, provider, model, op, at_ns, tools)
    row = quote.row
    most = bound(op, asked, text_bytes, row.window, pricing.default_max_tokens, window=row.reads, family=provider.family)
    nanousd, unanswered = bound_cost(row, most.input_tokens, most.output_tokens, most.images, most.files, most.fees, tier)
    return quote, (most.sent_tokens, most.output_tokens, most.kind, most.is_open), nanousd, nanousd - unanswered, most.input_tokens


def learn_and_reckon(rooms: Rooms, prices: Prices, try_: Try, quote: Quote, usage: Usage, op: Operation, asked: Asked) -> None:
    """Both, of an attempt that was held and has left."""
    like, held = try_.like, try_.held_usage
    if like.skips and usage.source == "provider" and held and not held[3] and usage.tier == try_.known.tier:
        like.skips -= 1  # as most calls of what is well known
    else:
        learn(rooms, try_, usage, asked)
    if not op.is_read_back and (amount := usual_cost(quote.row, usage)):  # most calls
        try_.used, try_.cost_nanousd, try_.price_row = usage, amount, quote.row.said
    else:
        reckon(rooms, prices, try_, quote, usage, op)


def learn(rooms: Rooms, try_: Try, usage: Usage, asked: Asked) -> None:
    """What the provider states of a call that is over teaches what the next one like it will take."""
    if try_.held_usage is not None and usage.source == "provider":
        sent, _, kind, is_open = try_.held_usage
        if sent:
            answers = asked.choices if is_open and usage.ended else None
            rooms.store.lessons.saw((try_.provider, try_.model or ""), kind, sent, usage, answers, asked.tier in TIERLESS)


def release(rooms: Rooms, try_: Try) -> None:
    """Nothing of the attempt has left: what was held for it goes back, and its row, should it get one, costs nothing."""
    rooms.store.void(try_.id, None)
    try_.is_held, try_.usage = False, Usage()
    try_.held_nanousd = try_.cost_nanousd = 0
    try_.price_row = None


def settle(rooms: Rooms, prices: Prices, story: Story, try_: Try, quote: Quote, usage: Usage, op: Operation) -> None:
    """It is over: the true figures, once."""
    try_.ended = rooms.clock.monotonic()
    reckon(rooms, prices, try_, quote, usage, op)
    rooms.books.settle(story, try_)


def defer(rooms: Rooms, story: Story, try_: Try, quote: Quote, job: Job) -> None:
    """The provider works on after its answer, and bills it later: what is held stays held, for the job."""
    if quote.note:  # `unmetered: flag`: no bound of it is known
        rooms.metrics.unpriced(try_.provider, try_.model, quote.note)
    try_.ended = rooms.clock.monotonic()
    id = job_id(try_.provider, job.id)
    later = rooms.books.row_of(story, try_)._replace(id=id, kind="job", attempt=1, parent_id=f"{story.call.id}/{try_.number}")
    try_.usage, try_.cost_nanousd, try_.price_row = (
        Usage(note=f"{quote.note},job" if quote.note else "job", detail={"job": job.id}),
        0,
        None,
    )
    rooms.books.defer(story, try_, id, later)


def settle_job(rooms: Rooms, prices: Prices, pricing: Pricing, provider: Provider, job: Job) -> None:
    """A later answer shows what the job used: it is settled, for whoever began it, in the periods of its hold. Once."""

    def true(row: Row) -> Sequence[Row]:
        rows = _job_rows(rooms, prices, pricing, provider, row, job)
        for one in rows:
            rooms.metrics.job(one)
        return rows

    rooms.store.settle_job(job_id(provider.name, job.id), true, dumped(job))


def settle_told(rooms: Rooms, generation: Generation, id: str, said: bytes) -> None:
    """Another sidecar saw the usage of a job that began here. What cannot be read, or whose provider is gone, changes nothing."""
    name, _ = named(id)
    provider, job = generation.rules.providers.get(name), loaded(said)
    if provider is not None and job is not None and job_id(name, job.id) == id:
        settle_job(rooms, generation.prices, generation.rules.pricing, provider, job)


def _job_rows(rooms: Rooms, prices: Prices, pricing: Pricing, provider: Provider, row: Row, job: Job) -> Sequence[Row]:
    """What it did use. `row`: as it is held, worth its estimate."""
    if job.usages and job.usages[0].units.keys() & WORK_UNITS:
        model = row.model or job.usages[0].model
        rooms.metrics.unpriced(provider.name, model, UNITS)
        return [row._replace(model=model, usage_detail=job.usages[0].detail, usage_note=UNITS)]
    if job.usages:
        return [_job_row(rooms, prices, pricing, provider, row, usage, number) for number, usage in enumerate(job.usages, 1)]
    if not job.is_free:
        return [row._replace(usage_note="usage_missing")]
    return [_with_usage(row, Usage(), "", 0, None)]


def _job_row(rooms: Rooms, prices: Prices, pricing: Pricing, provider: Provider, row: Row, usage: Usage, number: int) -> Row:
    """`number`: of the models of the job."""
    pricing = replace(pricing, unknown_price="flag") if pricing.unknown_price == "deny" else pricing  # it is too late to refuse
    model = row.model if number == 1 and row.model else usage.model
    priced = prices.priced(prices.quote(pricing, False, provider, model, WORK, row.at), usage, row.held_nanousd)
    if priced.unpriced:
        rooms.metrics.unpriced(provider.name, model, priced.unpriced)
    found = _with_usage(row._replace(model=model), usage, priced.note, priced.cost_nanousd, priced.price_row)
    took_ms = round(max(0, rooms.clock.now_ns() - row.at) / 1e6, 3)
    if number == 1:
        return found._replace(duration_ms=took_ms)
    return found._replace(id=f"{row.id.rpartition('/')[0]}/{number}", attempt=number, held_nanousd=0, duration_ms=took_ms)


def _with_usage(row: Row, usage: Usage, note: str, nanousd: int, price_row: Mapping[str, object] | None) -> Row:
    return row._replace(
        input_tokens=usage.input,
        cached_input_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        usage_detail=usage.detail,
        usage_source=usage.source,
        usage_note=note,
        cost_nanousd=nanousd,
        price_row=price_row,
    )


def reckon(rooms: Rooms, prices: Prices, try_: Try, quote: Quote, usage: Usage, op: Operation) -> None:
    """What the attempt that has ended cost, for the books to settle. An estimated usage costs what was held; a read-back nothing."""
    priced = prices.priced(quote, usage, try_.held_nanousd)
    try_.is_read_back = op.is_read_back
    try_.usage = usage if usage.note == priced.note else replace(usage, note=priced.note)
    try_.cost_nanousd = 0 if op.is_read_back else priced.cost_nanousd
    try_.price_row = priced.price_row
    if priced.unpriced:
        rooms.metrics.unpriced(try_.provider, try_.model, priced.unpriced)
