"""The tools of `make bench`: wrong answers are found, right ones are read wherever they are cut, and what is void is no figure."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.ports import free_port
from support.sluice import ROOT

from tests.bench import bench, beside, figures

BENCH = ROOT / "tests" / "bench"
MISSING = [name for name in ("cc", "make") if shutil.which(name) is None]
Change = Callable[[bytes], bytes]


# --- load generator and mock provider ---


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"needs {' and '.join(MISSING)}: the load generator and the mock provider of `make bench` are NOT tested")
    out = tmp_path_factory.mktemp("tools")
    done = subprocess.run(["make", "-s", "-C", str(BENCH), f"OUT={out}"], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0 and done.stderr == ""
    return out


@pytest.fixture
def provider(tools: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    port = free_port()
    monkeypatch.setattr(bench, "UP", port)
    process = subprocess.Popen([tools / "mock_upstream", str(port)])
    until = time.monotonic() + 20
    while bench.http(port, "/__stats")[0] != 200 and time.monotonic() < until:
        time.sleep(0.02)
    yield port
    process.kill()
    process.wait()


@asynccontextmanager
async def between(provider: int, ask: Change = bytes, answer: Change = bytes) -> AsyncIterator[int]:
    """A proxy that changes bodies of requests, and whole answers, as told."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(re.search(rb"(?i)content-length: *(\d+)", head)[1]))
                body = ask(body)
                up, down = await asyncio.open_connection("127.0.0.1", provider)
                down.write(b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                writer.write(answer(await up.read()))
                await writer.drain()
                down.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def load(tools: Path, port: int, arguments: str) -> dict:
    command = f"-d 0.4 -w 0 -c 4 {arguments} {port}"
    process = await asyncio.create_subprocess_exec(tools / "llmload", *command.split(), stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


def rechunked(answer: bytes) -> bytes:
    """In chunks of 7 bytes: stamps, nonces, addresses and events are cut everywhere."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.+?)\r\n(?=[0-9a-f]+\r\n)", body, re.S))
    head = re.sub(rb"(?i)\r\n(content-length|transfer-encoding|connection):[^\r]*", b"", head) + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(cut), cut) for cut in re.findall(rb"(?s).{1,7}", body)) + b"0\r\n\r\n"


async def test_answers_given_to_another_request_are_counted_as_mixed_and_as_nothing_else(tools, provider):
    held = [b""]

    def swapped(answer: bytes) -> bytes:
        mine, held[0] = held[0] or answer, answer
        return mine

    async with between(provider, answer=swapped) as port:
        for kind in ("", "-s -m mock-n5"):
            held[0] = b""
            found = await load(tools, port, kind)
            assert found["mixed"] >= 3 and found["done"] <= 1 and found["failed"] == found["unequal"] == 0


async def test_an_answer_without_a_nonce_is_mixed_too(tools, provider):
    async with between(provider, answer=lambda it: re.sub(rb"~[a-p]{16}@", b"." * 17 + b"@", it)) as port:
        found = await load(tools, port, "")
        assert found["mixed"] >= 3 and found["done"] == 0


@pytest.mark.parametrize(
    ("arguments", "events"), [("-k mail -z 4000", 0), ("-s -k mail -z 2000 -m mock-n100", 100), ("-s -k lines -m mock-n30", 30)]
)
async def test_stamps_nonces_and_addresses_are_read_wherever_the_answer_is_cut(tools, provider, arguments, events):
    async with between(provider, answer=rechunked) as port:
        found = await load(tools, port, arguments)
        assert found["done"] >= 3 and found["mixed"] == found["unequal"] == found["failed"] == 0
        if events:
            assert found["ttft_us"]["n"] == found["done"] and found["event_us"]["n"] == events * found["done"]


@pytest.mark.parametrize("arguments", ["-k mail -z 4000", "-s -k mail -z 2000 -m mock-n100"])
async def test_addresses_that_are_masked_and_not_restored_are_found_and_the_provider_counts_the_masked(tools, provider, arguments):
    async with between(provider, ask=lambda it: re.sub(rb"\^[^^]+\^", b"^[EMAIL_1]^", it)) as port:
        found = await load(tools, port, arguments)
    counted = bench.counters()
    assert found["unequal"] >= 3 and found["done"] == found["mixed"] == 0
    assert counted["masked"] == counted["echoed"] == 3 * counted["calls"]


async def test_requests_due_at_moments_of_their_own_are_as_many_as_those_due_at_equal_intervals(tools, provider):
    for seed in ("", "-j 0", "-j 1"):
        found = await load(tools, provider, f"-r 100 {seed}")
        assert found["done"] == 40 and found["unsent"] == found["failed"] == found["unfinished"] == 0


async def test_an_address_of_another_request_is_found(tools, provider):
    """As where one call's placeholders are restored with another's values."""
    async with between(provider, answer=lambda it: re.sub(rb"[a-p]{16}@mail", b"a" * 16 + b"@mail", it)) as port:
        found = await load(tools, port, "-k mail -z 4000")
        assert found["unequal"] >= 3 and found["done"] == found["mixed"] == 0


@pytest.mark.parametrize("arguments", ["-k mail -z 4000", "-s -k mail -z 2000 -m mock-n100"])
async def test_an_answer_that_says_no_address_is_unequal(tools, provider, arguments):
    async with between(provider, ask=lambda it: it.replace(b"^", b" ")) as port:
        found = await load(tools, port, arguments)
        assert found["unequal"] >= 3 and found["done"] == 0


async def test_a_stream_is_unequal_by_its_last_address_too(tools, provider):
    def late(answer: bytes) -> bytes:
        half = len(answer) * 3 // 4
        return answer[:half] + re.sub(rb'("content":"[^"]*)@', rb"\1#", answer[half:])

    async with between(provider, answer=late) as port:
        found = await load(tools, port, "-s -k mail -z 2000 -m mock-n200")
        assert found["unequal"] >= 3 and found["done"] == found["mixed"] == 0


async def test_every_prompt_is_json_of_the_size_asked_for_with_lines_addresses_and_a_nonce_of_its_own(tools, provider):
    seen: list[bytes] = []

    def look(body: bytes) -> bytes:
        seen.append(body)
        return body

    async with between(provider, ask=look) as port:
        for kind in ("plain", "lines", "mail"):
            seen.clear()
            assert (await load(tools, port, f"-k {kind} -z 8000"))["done"] >= 3
            texts = [json.loads(body)["messages"][1]["content"] for body in seen]
            assert {len(body) for body in seen} == {8000}
            assert len({text[:18] for text in texts}) == len(texts) and all(re.match(r"~[a-p]{16}~ ", text) for text in texts)
            lines = texts[0].split("\n")
            assert len(lines) == 1 if kind == "plain" else len(lines) > 60 and max(map(len, lines)) < 220
            addresses = re.findall(r"\^(\S+@mail\.example\.org)\^", texts[0])
            assert len(set(addresses)) == (3 if kind == "mail" else 0) and all(texts[0][1:17] in one for one in addresses)


async def test_the_provider_states_the_sum_of_all_usage_it_said(tools, provider):
    found = await load(tools, provider, "-z 4000 -m mock-n7")
    streamed = await load(tools, provider, "-s -z 4000 -m mock-n9")
    counted = bench.counters()
    assert counted["calls"] == found["done"] + streamed["done"]
    assert counted["prompt_tokens"] == 1000 * counted["calls"]
    assert counted["completion_tokens"] == 7 * found["done"] + 9 * streamed["done"]


def test_the_highest_rate_is_that_at_which_all_is_answered_and_p99_is_below_10_ms():
    asked = []

    def probe(arguments: str) -> dict:
        rate = float(arguments.split()[1])
        asked.append(rate)
        return {"rate": rate, "rps": rate, "unsent": 0, "lat_us": {"p99": 9_000 if rate < 820 else 11_000}}

    assert bench.highest_rate(probe, "-c 4", 1000)["rps"] == 800 and len(asked) <= 4
    assert bench.highest_rate(lambda it: probe(it) | {"unsent": 1}, "-c 4", 1000)["rps"] == 0


# --- figures ---


def row(target: str, turn: int = 0, rps: float = 1000, p50: float = 300, p99: float = 900, **more) -> dict:
    loads = {"t64": {"rps": rps, "cpu_us": 1e6 / rps}, "o500": {"lat_us": {"p50": p50, "p99": p99}}}
    return {"target": target, "round": turn, "provider": {"echoed": 6, "masked": 6}, **loads, **more}


def line(rows: list[dict], what: str) -> list[str]:
    (found,) = [one for one in figures.targets(figures.Found(rows)).splitlines() if what in one]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize(
    ("rps", "ratio", "verdict"),
    [(1999, "2.00x", "**missed**"), (2000, "2.00x", "must"), (3200, "3.20x", "goal"), (4100, "4.10x", "stretch")],
)
def test_a_verdict_is_the_highest_aim_reached(rps, ratio, verdict):
    rows = [row("aiohttp"), row("sluice-on", rps=rps)]
    cells = line(rows, "calls/s per core, 1 kB")
    assert cells[3] == ratio and cells[-1] == verdict


def test_added_is_minus_direct_of_the_same_round_and_a_ratio_is_of_one_round():
    rows = [row("direct", turn, p50=100 * turn) for turn in (0, 1, 2)]
    rows += [row("aiohttp", turn, p50=100 * turn + 200) for turn in (0, 1, 2)]
    rows += [row("sluice-on", turn, p50=100 * turn + more) for turn, more in enumerate((100, 120, 400))]
    cells = line(rows, "added p50 at 500")
    assert cells[1:4] == ["200", "120", "0.60x"] and cells[-1] == "must"


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        ((900, 1000, 1000, 1000, 1100), "**missed**"),
        ((900, 1000, 1000, 1000, 1200), "not judged: plain's own p99 spreads by 30%"),
        ((1000, 1000, 1000, 1000), "not judged: of 4 rounds, not 5"),
    ],
)
def test_a_p99_is_judged_only_where_plain_s_own_is_calm_over_five_rounds(rounds, verdict):
    rows = [row(name, turn, p99=p99) for turn, p99 in enumerate(rounds) for name in ("direct", "aiohttp", "sluice-on")]
    rows = [one | {"o500": {"lat_us": {"p99": 100}}} if one["target"] == "direct" else one for one in rows]
    assert line(rows, "added p99 at 500")[-1].startswith(verdict)


@pytest.mark.parametrize("kind", figures.BAD)
def test_a_load_with_one_bad_call_is_void_and_no_figure(kind):
    bad = row("sluice-on", rps=9999, start_s=0.3)
    bad["t64"][kind] = 1
    found = figures.Found([row("aiohttp"), bad])
    assert found.void == [f"round 0, sluice-on, t64: 1 {kind}"]
    assert found.all("sluice-on", figures.T64) == [] and found.all("sluice-on", figures.START) == [0.3]
    assert line([row("aiohttp"), bad], "calls/s per core, 1 kB")[-1] == "**void**"


def test_books_that_do_not_agree_with_the_provider_s_to_the_nano_dollar_void_the_target_s_round():
    provider = {"calls": 3, "prompt_tokens": 750, "completion_tokens": 48, "echoed": 2, "masked": 2}
    good = {"rows": 3, "refusals": 0, "cost_nanousd": 750 * 2500 + 48 * 10_000, "waiting": 0}
    assert figures.Found([row("sluice-on", provider=provider, ledger=good, is_masking=True)]).void == []
    for ledger in (good | {"rows": 2}, good | {"refusals": 1}, good | {"cost_nanousd": good["cost_nanousd"] + 1}):
        found = figures.Found([row("sluice-on", provider=provider, ledger=ledger)])
        assert len(found.void) == 1 and found.all("sluice-on", figures.T64) == []
    leaked = figures.Found([row("sluice-on", provider=provider | {"masked": 1}, ledger=good, is_masking=True)])
    assert leaked.void == ["round 0, sluice-on: 1 of 2 addresses reached the provider"]


def test_an_overloaded_probe_is_no_fault_and_a_mixed_answer_in_one_is():
    probes = [{"unsent": 5, "unfinished": 2}]
    assert figures.Found([row("aiohttp", max10={"rps": 800, "probes": probes})]).void == []
    probes.append({"mixed": 1})
    assert figures.Found([row("aiohttp", max10={"rps": 800, "probes": probes})]).void == ["round 0, aiohttp, max10: 1 mixed"]


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (2, 1)])
def test_a_document_is_made_of_the_rows_of_a_run_and_void_ends_with_1(tmp_path, failed, code):
    rows = [row("direct", p50=100, p99=100), row("aiohttp"), row("sluice-on")]
    rows[2]["t64"]["failed"] = failed
    (tmp_path / "rows").write_text("\n".join(map(json.dumps, rows)))
    asked = ["--from", tmp_path / "rows", "--to", tmp_path / "out.md", "--base", "localhost/none"]
    done = subprocess.run([sys.executable, BENCH / "run.py", *asked], capture_output=True, text=True, timeout=100)
    text = (tmp_path / "out.md").read_text()
    assert done.returncode == code and not re.search(r"@[A-Z]+@", text)
    assert "Image size: not measured" in text and ("2 failed" in text) == bool(failed) == ("VOID" in done.stderr)


def test_what_a_forgotten_process_takes_of_the_machine_is_told_and_what_is_measured_is_not():
    spin = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(["sleep", "60"]) as measured, subprocess.Popen(spin) as forgotten:
        try:
            of_it, of_us = (beside.Beside(lambda own=own: bench.tree(own), bench.cpu_of) for own in (measured.pid, os.getpid()))
            until, name = time.monotonic() + 20, f"({forgotten.pid})"
            while not (taken := [who for who in of_it.taken() if who.endswith(name)]) and time.monotonic() < until:
                time.sleep(0.05)
            assert taken and name in beside.worded(of_it.taken())
            assert not any(who.endswith(name) for who in of_us.taken())
        finally:
            measured.kill()
            forgotten.kill()


def test_a_document_says_whether_the_machine_was_quiet(tmp_path):
    for taken, said in (
        ({"python (7)": 0.4}, "no more than 0.4 %"),
        ({"python (7)": 0.4, "cc (8)": 2.0}, "took 2.4 % of a core (cc (8) 2.0 %,"),
    ):
        (tmp_path / "rows").write_text("\n".join(json.dumps(row(name, beside=taken)) for name in ("direct", "aiohttp")))
        asked = ["--from", tmp_path / "rows", "--to", tmp_path / "out.md", "--base", "localhost/none"]
        subprocess.run([sys.executable, BENCH / "run.py", *asked], check=True, stdout=subprocess.DEVNULL, timeout=100)
        assert said in (tmp_path / "out.md").read_text()


def test_the_cpu_of_a_target_counts_what_its_ended_threads_took():
    rest = "print(flush=True); import time; time.sleep(60)"
    work = "import threading; one = threading.Thread(target=lambda: sum(range(5_000_000))); one.start(); one.join(); "
    took = []
    for code in (rest, work + rest):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as target:
            target.stdout.readline()
            took.append(bench.cpu_s(target.pid))
            target.kill()
    idle, busy = took
    assert 0 < idle < busy - 0.02


def awake(root: int) -> set[str]:
    """Which programs of the bench run, those that are stopped or have ended left out."""
    found = set()
    for pid in bench.tree(root):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("T", "Z"):
                found |= {name for name in ("llmload", "plain.py", "serve") if any(word.endswith(name.encode()) for word in words)}
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores: that targets take turns is NOT tested")
def test_in_a_round_the_targets_take_turns_and_who_has_none_is_stopped(tools, tmp_path):
    """Looked at from outside: while the load generator of a scenario runs, one of the two targets does."""
    asked = ["-n", "1", "-t", "aiohttp,sluice-on", "-s", "t64,c1", "--json", tmp_path / "rows"]
    env = {**os.environ, "BENCH_BIN": str(tools)}
    turns = set()
    with subprocess.Popen([sys.executable, BENCH / "run.py", *asked], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        while run.poll() is None:
            before, now, after = awake(run.pid), awake(run.pid), awake(run.pid)
            if "llmload" in before & after:  # it loaded meanwhile
                turns.add(frozenset(now - {"llmload"}))
            time.sleep(0.1)
        told = run.stderr.read().decode()
    assert run.returncode == 0 and turns == {frozenset({"plain.py"}), frozenset({"serve"})}
    assert re.search(r"round 0  t64 +calls/s: aiohttp \d\S*  sluice-on \d", told) and "round 0  c1 " in told
    rows = {one["target"]: one for one in map(json.loads, (tmp_path / "rows").read_text().splitlines())}
    assert set(rows) == {"aiohttp", "sluice-on"} and all(one["c1"]["done"] and one["t64"]["done"] for one in rows.values())
    books = rows["sluice-on"]
    assert books["ledger"]["rows"] == books["provider"]["calls"] > books["t64"]["done"] + books["c1"]["done"]
