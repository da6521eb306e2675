"""`sluice demo`: run whole, as `make demo` runs it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.sluice import ROOT


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[str, float, Path]:
    """What it printed, how long it took, and where its temporary files went."""
    folder = tmp_path_factory.mktemp("demo")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "SLUICE_STATE": "redis://nowhere", "COLUMNS": "80"}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "proxy", "demo"], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, time.monotonic() - began, folder


def ledger(said: str) -> dict[str, list[tuple[str, ...]]]:
    """(caller, kind, model, status, end, in, out, usage, guard, charged) of each row, by call."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for line in re.findall(r"^demo-\d\d  .*$", said, re.M):
        call, *cells = re.split(r" {2,}", line)
        if len(cells) == 10:
            found.setdefault(call, []).append(tuple(cells))
    return found


def test_it_is_over_soon_and_leaves_nothing_behind(demo):
    said, seconds, folder = demo
    assert seconds < 15
    assert list(folder.iterdir()) == []
    for url in set(re.findall(r"http://127\.0\.0\.1:\d+", said)):
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=2)


def test_every_call_is_in_the_ledger_with_what_became_of_it(demo):
    rows = ledger(demo[0])
    facts = {
        call: [(caller, kind, status, end, usage) for caller, kind, _, status, end, _, _, usage, _, _ in them]
        for call, them in rows.items()
    }
    good = ("first", "200", "done", "provider")
    assert facts == {
        **{f"demo-{number:02d}": [("alice", *good)] for number in range(1, 7)},
        "demo-07": [("alice", "refusal", "400", "refused:content_blocked", "none")],
        "demo-08": [
            ("alice", "first", "503", "done", "none"),
            ("alice", "retry", "503", "done", "none"),
            ("alice", "retry", "200", "done", "provider"),
        ],
        "demo-09": [("alice", "first", "200", "client_gone", "counted")],
        "demo-11": [("bob", *good)],
        "demo-12": [("bob", *good)],
        "demo-13": [("bob", "refusal", "402", "refused:budget_exhausted", "none")],
        "demo-14": [("bob", *good)],
        "demo-15": [("bob", "refusal", "429", "refused:rate_limited", "none")],
    }


def test_what_was_served_is_charged_and_what_was_refused_or_failed_is_not(demo):
    for them in ledger(demo[0]).values():
        for _, _, model, status, _, used, said, _, _, charged in them:
            if status != "200":
                assert (used, said, charged) == ("0", "0", "$0")
                continue
            rates = {"gpt-4o": (2500, 10000), "claude-sonnet-4-5": (3000, 15000)}[model]
            nano = int(used.replace(",", "")) * rates[0] + int(said.replace(",", "")) * rates[1]
            assert float(charged.removeprefix("$")) == pytest.approx(nano / 1e9, abs=1e-12)


def test_the_provider_saw_placeholders_and_the_client_its_own_words(demo):
    said = demo[0]
    rows = ledger(said)
    for call in ("demo-03", "demo-04", "demo-05", "demo-06"):
        assert rows[call][0][8] == "masked email=1 phone=1"
        block = said.partition(f"\n{call}, ")[2].splitlines()[1:4]
        sent, saw, got = (re.split(r" {2,}", line.strip(), maxsplit=1)[1] for line in block)
        assert "ada@example.org" in sent and got == f"You said: {sent}"
        assert "ada@example.org" not in saw and "415" not in saw and "EMAIL" in saw and "PHONE" in saw
    assert rows["demo-07"][0][8] == "blocked credit_card=1"


def test_refusals_say_why_and_the_provider_saw_no_callers_key(demo):
    said = demo[0]
    refused = said.partition("Refused before a byte left:")[2]
    assert re.search(r"demo-10  invalid_credentials: ", refused)
    assert re.search(r"demo-13  budget_exhausted: limit tier free: this call may cost \$0\.04\d*, \$0\.01\d* left", refused)
    assert re.search(r"demo-15  rate_limited: limit tier free: 3 requests per minute", refused)
    assert "slk-" not in said
    assert refused.partition("no caller's:")[2].split() == ["the-anthropic-key", "the-openai-key"]


async def test_kept_it_shows_its_ledger_and_ends_with_everything_it_started(alone):
    command = (sys.executable, "-m", "proxy", "demo", "--keep")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=alone, cwd=ROOT)
    assert process.stdout is not None
    try:
        said = ""
        while "still running: " not in said:
            line = await asyncio.wait_for(process.stdout.readline(), 30)
            assert line, said
            said += line.decode()
        base, admin = re.findall(r"http://[0-9.:]+", said.partition("still running: ")[2])[:2]
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{admin}/admin/ledger", timeout=5).read())
        assert [row["request_id"] for row in json.loads(text)["rows"]] == [call for call, them in ledger(said).items() for _ in them]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    for url in (base, admin):
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(urllib.request.urlopen, url, None, 2)
