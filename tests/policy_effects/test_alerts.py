"""Alerts at shares of money limits: in the log, in the metrics, posted; once, also after a kill; the URL is told to nobody."""

import asyncio

from support.provider import Provider
from support.world import world

POLICY = """
providers: {openai: {url: A_URL}}
prices: {dear: {input: 0, output: 10000}}
callers: {default_tier: small, keys: [{name: ann, hash: HASH(ann)}]}
tiers: {small: {spend: [$1/day, $100/total]}}
ALERTS
"""


async def until(holds) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_share_that_is_reached_is_logged_counted_and_posted_once(tmp_path):
    async def accept(seen, reply):
        await reply.whole(200, b"ok", "text/plain")

    async def spent(tokens):
        return await here.chat("ann", model="dear", max_tokens=tokens, headers=[("x-usage", f"0,{tokens}")])

    def logged():
        return [line["share"] for line in here.sluice.log_lines() if line["event"] == "alert"]

    policy = POLICY.replace("ALERTS", "alerts: {at: [50%, 100%], webhook: env:HOOK}")
    async with Provider(accept) as hook, world(tmp_path, policy, {"HOOK": hook.url + "/T0/the-secret-path"}) as here:
        await spent(40)
        assert not hook.seen
        await spent(20)
        await until(lambda: len(hook.seen) == 1)
        doc = hook.seen[0].json
        assert (hook.seen[0].target, doc["limit"], doc["account"], doc["share"]) == (
            "/T0/the-secret-path",
            "tier small",
            "caller=ann",
            "50%",
        )
        assert (doc["used_usd"], doc["allowed_usd"], doc["period"]) == ("0.60", "1.00", "day")
        await until(lambda: logged() == ["50%"])
        await here.sluice.kill()
        await here.sluice.start()
        await spent(20)
        assert (await spent(90)).status == 402
        await until(lambda: len(hook.seen) == 2)
        assert hook.seen[1].json["share"] == "100%", "the half was told before the kill"
        assert await here.metric("alerts_total", limit="tier small", share="100%") == 1
        assert await here.metric("alert_posts_total", outcome="sent") == 1
        await until(lambda: logged() == ["50%", "100%"])
        await here.reload(POLICY.replace("ALERTS", "alerts: {at: 60%}"))
        await spent(5)
        await until(lambda: logged() == ["50%", "100%", "60%"])
        assert len(hook.seen) == 2, "no webhook any more"
        assert "the-secret-path" not in here.sluice.logged() + await here.sluice.metrics()
        assert b"the-secret-path" not in (tmp_path / "state" / "alerts.jsonl").read_bytes()
