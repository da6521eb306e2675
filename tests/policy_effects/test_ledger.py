"""How long the ledger keeps its rows: by age and by size, into the archive; the sums stay."""

import asyncio
import gzip
import json
import time

import pytest
from support.echo import echo
from support.world import world

BASE = """
providers: {openai: {url: A_URL}}
callers: {keys: [{name: bot, hash: HASH(bot)}]}
"""


def archived(state):
    return [json.loads(line) for it in sorted((state / "archive").glob("*.gz")) for line in gzip.decompress(it.read_bytes()).splitlines()]


@pytest.mark.parametrize("kept", ["{keep: 1ms}", "{max_size: 1B}"])
async def test_rows_beyond_the_age_or_the_size_that_the_policy_keeps_go_to_the_archive(tmp_path, monkeypatch, kept):
    async with world(tmp_path, BASE) as here:
        here.provider.script = echo
        for _ in range(5):
            assert (await here.chat("bot", headers=[("x-usage", "100,20,40")])).status == 200
        rows = await here.sluice.rows()
        usage = await here.sluice.get("/admin/usage?by=model")
        assert len(rows) == 5
        await here.sluice.stop()
        here.sluice.policy.write_text(here.sluice.policy.read_text() + f"\nledger: {kept}\n")
        await here.sluice.start()
        until = time.monotonic() + 30
        while len(left := await here.sluice.rows()) > 1:
            assert time.monotonic() < until, here.sluice.logged()
            await asyncio.sleep(0.05)
        assert left == rows[-1:]
        gone = archived(here.sluice.state)
        assert [it["request_id"] for it in gone] == [it["request_id"] for it in rows[:-1]]
        assert [it["cost_nanousd"] for it in gone] == [it["cost_nanousd"] for it in rows[:-1]]
        assert await here.sluice.get("/admin/usage?by=model") == usage
        assert "sluice_ledger_pruned_rows_total 4" in await here.sluice.metrics()
