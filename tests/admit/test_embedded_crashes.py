"""The embedded state under kill -9, driven step by step (`driver.py`) and under load: invariants I1, I2, I4, I5, I7, I9, I10, I11."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from proxy.admit.embedded import EmbeddedState

NOON = 1_795_262_400 * 10**9
SECOND = 10**9
HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parents[1])}


class Driver:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, HERE / "driver.py", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0,
        )  # fmt: skip
        self.child = int(self.process.stderr.readline())

    def ask(self, *command: object) -> dict[str, object]:
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read().decode()
        answer = json.loads(line)
        assert "problem" not in answer, answer
        return answer

    def answer(self, *command: object) -> object:
        return self.ask(*command)["answer"]

    def again(self) -> None:
        assert self.process.stderr.readline() == b"died\n"
        self.process.stdin.write(b"!")
        self.child = int(self.process.stderr.readline())

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        self.again()

    def end(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def driver():
    driver = Driver()
    yield driver
    driver.end()


class RealClock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


SPENDS = {"day": (100, (1, 3)), "month": (250, (1, 3)), "total": (400, (2, 3))}  # limit, and which CLAIMS of the driver count on it


class Money(RuleBasedStateMachine):
    """A model of the money alone, and a log of requests; what is unwritten when the process dies is known (see the driver)."""

    driver: Driver

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="sluice-")
        self.now = NOON
        self.open: dict[str, tuple[int, int, str]] = {}  # id → claims, held, day
        self.settled: dict[str, int] = {}  # period → cost
        self.under = dict.fromkeys(SPENDS, 0)  # U of I2
        self.rows: dict[str, int] = {}
        self.unwritten: list[tuple[str, tuple[int, int, str], int]] = []  # closes that a kill would undo
        self.entered: list[tuple[int, bool]] = []  # instant, is written
        self.inside: set[str] = set()
        self.closed: list[str] = []
        self.number = 0

    @initialize()
    def begin(self) -> None:
        assert self.driver.answer("open", self.path, self.now) == 0

    @property
    def day(self) -> str:
        return str((self.now - NOON + 12 * 3600 * SECOND) // (86400 * SECOND))

    def period(self, name: str, day: str) -> str:
        return name + (day if name == "day" else "")

    def used(self, name: str) -> int:
        held = sum(held for claims, held, day in self.open.values() if claims in SPENDS[name][1] and (name != "day" or day == self.day))
        return held + self.settled.get(self.period(name, self.day), 0)

    def written(self) -> None:
        self.unwritten.clear()
        self.entered = [(at, True) for at, _ in self.entered]

    @rule(claims=st.integers(0, 3), nanousd=st.integers(0, 130), tokens=st.integers(0, 40))
    def hold(self, claims: int, nanousd: int, tokens: int) -> None:
        self.number += 1
        id = f"c{self.number}"
        answer = self.driver.ask("hold", id, claims, nanousd, tokens)
        fits = all(self.used(name) + nanousd <= limit for name, (limit, of) in SPENDS.items() if claims in of)
        if "answer" in answer:
            assert fits  # I1
            self.open[id] = (claims, nanousd, self.day)
            self.written()
        elif answer["refused"] == "rate_limited":
            assert claims in (1, 3)
        else:
            larger = any(nanousd > limit for name, (limit, of) in SPENDS.items() if claims in of)
            assert not fits
            assert answer["refused"] == ("exceeds_limit" if larger else "budget_exhausted")

    @rule(which=st.integers(0, 9), nanousd=st.integers(0, 140), tokens=st.integers(0, 60), is_void=st.booleans())
    def close_one(self, which: int, nanousd: int, tokens: int, is_void: bool) -> None:
        if not self.open:
            return
        id = list(self.open)[which % len(self.open)]
        nanousd = 0 if is_void else nanousd
        self.driver.answer(*(("void", id) if is_void else ("settle", id, nanousd, tokens)))
        claims, held, day = self.open.pop(id)
        self._settle(id, claims, day, nanousd)
        for name, (_, of) in SPENDS.items():
            self.under[name] += max(0, nanousd - held) if claims in of else 0
        self.unwritten.append((id, (claims, held, day), nanousd))
        self.closed.append(id)

    def _settle(self, id: str, claims: int, day: str, nanousd: int) -> None:
        self.rows[id] = nanousd
        for name, (_, of) in SPENDS.items():
            if claims in of:
                key = self.period(name, day)
                self.settled[key] = self.settled.get(key, 0) + nanousd

    @rule(which=st.integers(0, 9), nanousd=st.integers(0, 140))
    def close_one_again(self, which: int, nanousd: int) -> None:
        if self.closed:
            self.driver.answer("settle", self.closed[which % len(self.closed)], nanousd, 1)  # I4: changes nothing

    @rule()
    def enter(self) -> None:
        self.number += 1
        uid = f"u{self.number}"
        answer = self.driver.ask("enter", uid, 1)
        last_minute = [at for at, _ in self.entered if at > self.now - 60 * SECOND]
        if "answer" in answer:
            assert len(last_minute) < 6
            assert len(self.inside) < 3
            self.entered.append((self.now, False))
            self.inside.add(uid)
        else:
            assert answer["refused"] == ("rate_limited" if len(self.inside) < 3 or len(last_minute) >= 6 else "too_many_in_flight")

    @rule()
    def leave(self) -> None:
        if self.inside:
            self.driver.answer("leave", self.inside.pop())

    @rule(ns=st.sampled_from([1, SECOND // 2, SECOND, 20 * SECOND, 61 * SECOND, 12 * 3600 * SECOND]))
    def time_passes(self, ns: int) -> None:
        if self.now + ns < NOON + 8 * 86400 * SECOND:  # within November
            self.now += ns
            self.driver.answer("wait", ns)

    @rule()
    def a_tick(self) -> None:
        """The entry of a call that began last waits for the next record, of whatever call: until its hold it has sent nothing. What came
        before it is written, by this or by a snapshot."""
        self.driver.answer("tick")
        self.unwritten.clear()
        self.entered = [*((at, True) for at, _ in self.entered[:-1]), *self.entered[-1:]]

    @rule()
    def kill_and_start_again(self) -> None:
        self.driver.kill()
        for id, hold, nanousd in self.unwritten:  # as if it had never been settled
            self.open[id] = hold
            for name, (_, of) in SPENDS.items():
                if hold[0] in of:
                    self.settled[self.period(name, hold[2])] -= nanousd
                    self.under[name] -= max(0, nanousd - hold[1])
            del self.rows[id]
        self.entered = [(at, True) for at, is_written in self.entered if is_written]
        self._start(len(self.open))

    @rule()
    def stop_and_start_again(self) -> None:
        self.driver.answer("close")
        self.driver.again()
        self.written()
        self._start(len(self.open))

    def _start(self, crashed: int) -> None:
        for id, (claims, held, day) in self.open.items():
            self._settle(id, claims, day, held)
        self.open.clear()
        self.inside.clear()
        self.unwritten.clear()
        assert self.driver.answer("open", self.path, self.now) == crashed

    @invariant()
    def the_counters_are_the_models(self) -> None:
        if not self.number:
            return
        standing = {(limit, kind, at): used for at, (limit, kind, used) in enumerate(self.driver.answer("standing"))}
        requests, slots, _, day, month, total = standing.values()
        for name, (limit, _) in SPENDS.items():
            assert self.used(name) <= limit + self.under[name]  # I2
        assert (day, month, total) == tuple(min(limit, self.used(name)) for name, (limit, _) in SPENDS.items())  # I5, I10
        assert slots == len(self.inside)  # I9
        assert requests >= min(6, sum(at > self.now - 60 * SECOND for at, _ in self.entered))

    def teardown(self) -> None:
        try:
            found = self.driver.answer("rows")
            self.written()
            assert {id: cost for id, cost, _ in found} == self.rows
            assert len(found) == len(self.rows)
        finally:
            self.driver.kill()
            shutil.rmtree(self.path)


def test_money_adds_up_whatever_happens_and_wherever_the_process_is_killed(driver):
    class Driven(Money):
        pass

    Driven.driver = driver
    run_state_machine_as_test(
        Driven,
        settings=settings(max_examples=25, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


@pytest.mark.parametrize("mutant", ["held is ignored", "settles twice", "a crash is free"])
def test_a_bug_that_is_sown_is_found(mutant):
    """In a process of its own: what else a test run has loaded bends what hypothesis draws, and how soon it finds something."""
    done = subprocess.run([sys.executable, __file__, mutant], capture_output=True, text=True, env=ENVIRONMENT, timeout=110)
    assert done.returncode == 1 and done.stderr.count("AssertionError"), done.stderr[-2000:]
    clean = subprocess.run([sys.executable, __file__, "none"], capture_output=True, text=True, env=ENVIRONMENT, timeout=110)
    assert clean.returncode == 0, clean.stderr[-2000:]


def hunt(mutant: str) -> None:
    """Until the bug is found."""

    class Driven(Money):
        pass

    Driven.driver = Driver() if mutant == "none" else Driver("mutant", mutant)
    examples = 20 if mutant == "none" else 2000
    try:
        run_state_machine_as_test(
            Driven,
            settings=settings(
                max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None,
                phases=[Phase.generate], report_multiple_bugs=False,
            ),
        )  # fmt: skip
    finally:
        Driven.driver.end()


def test_every_acknowledged_hold_has_exactly_one_row_after_kills_under_load(tmp_path):
    held: set[str] = set()
    settled: set[str] = set()
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, HERE / "driver.py", "load", tmp_path / "state"], stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        seen = process.stdout.readline()
        time.sleep(0.15 + 0.05 * number)
        process.kill()
        seen += process.stdout.read()
        process.stdout.close()
        process.wait()
        for line in seen.decode().splitlines():
            word, id = line.split()
            (held if word == "held" else settled).add(id)
    assert len(held) > 100

    async def read() -> tuple[list[dict[str, object]], dict[str, int]]:
        state = await EmbeddedState.open(tmp_path / "state", clock=RealClock(), time_zone="UTC", max_keys=10)
        try:
            return await state.rows(100_000), state.held_spend(["tier roomy"])
        finally:
            await state.close()

    rows, spent = asyncio.run(read())
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert held <= by_id.keys()
    assert all(by_id[id]["end"] == "done" and by_id[id]["cost_nanousd"] == 400 for id in settled)
    assert all(
        (row["end"], row["cost_nanousd"], row["usage_source"]) in (("done", 400, "provider"), ("crashed", 1000, "estimate")) for row in rows
    )
    assert spent == {"tier roomy": sum(row["cost_nanousd"] for row in rows)}


if __name__ == "__main__":
    hunt(sys.argv[1])
