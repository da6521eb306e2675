"""`sluice reconcile`: the ledger of a real sidecar against bills as OpenAI and Anthropic export them."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from support.world import world

from proxy.cli.reconcile import compare, folded
from proxy.record.invoice import read_bill

POLICY = """
    providers: {openai: {url: A_URL}}
    callers: {keys: [{name: ada, hash: HASH(ada)}]}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def used(tmp_path_factory):
    """Two calls of gpt-4o (100,000 in at $2.50, 20,000 out at $10 per million: $0.45 each) and one of gpt-4o-mini ($0.027)."""
    async with world(tmp_path_factory.mktemp("reconcile"), POLICY) as one:
        for model in ("gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini"):
            got = await one.chat("ada", model=model, headers=[("x-usage", "100000,20000,0")])
            assert got.status == 200
            day = (await one.row(got))["at"][:10]
        one.day = day
        yield one


@pytest.fixture
def bill(tmp_path, used, sluice):
    """`bill(text)`: the command's outcome for this bill; `D` stands for the day of the calls, `T` for its start in Unix seconds."""

    async def run(text: str, *more: str):
        file = tmp_path / "bill.csv"
        start = datetime.fromisoformat(used.day).replace(tzinfo=UTC)
        tokens = {"DAY": used.day, "START": str(int(start.timestamp())),
                  "END": str(int((start + timedelta(days=1)).timestamp()))}  # fmt: skip
        for token, value in tokens.items():
            text = text.replace(token, value)
        file.write_text(text)
        return await asyncio.to_thread(sluice, "reconcile", file, "--admin", used.sluice.admin, *more)

    return run


OPENAI = """\
start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,organization_id,organization_name
START,END,x,x,0.5,usd,"gpt-4o-2024-08-06, input",proj,org,Personal
START,END,x,x,0.4,usd,"gpt-4o-2024-08-06, output",proj,org,Personal
START,END,x,x,0.0270,usd,"gpt-4o-mini-2024-07-18, output",proj,org,Personal
"""


async def test_openais_export_that_says_the_same_is_reconciled(bill, used):
    done = await bill(OPENAI)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    rows = {line.split()[1]: line.split()[2:5] for line in done.stdout.splitlines() if line.startswith(used.day)}
    assert rows == {"gpt-4o": ["$0.90", "$0.90", "$0"], "gpt-4o-mini": ["$0.027", "$0.027", "$0"]}
    assert "OpenAI costs: billed $0.927, in the ledger of openai $0.927, of it estimated $0" in done.stdout
    assert "all 2 lines are within 1 % of the bill or a cent" in done.stdout


async def test_what_is_missing_or_differs_is_marked_and_the_exit_code_is_one(bill, used):
    text = "date,model,cost_usd\nDAY,gpt-4o,0.80\nDAY,o3,1.00\n"
    done = await bill(text)
    assert done.returncode == 1
    found = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(used.day)}
    for model, mark in {"o3": "missing in the ledger", "gpt-4o": "differs", "gpt-4o-mini": "missing in the bill"}.items():
        assert found[model].endswith(mark)
    assert "3 of 3 lines" in done.stdout


async def test_json_has_exact_nano_dollars_and_tokens(bill, used):
    done = await bill("date,model,cost_usd,input_tokens,output_tokens\nDAY,gpt-4o,0.9,200000,40000\nDAY,gpt-4o-mini,.027,,\n", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["form"], said["provider"], said["is_reconciled"]) == (0, "plain", None, True)
    assert said["lines"][0] == {
        "day": used.day, "model": "gpt-4o", "billed_nanousd": 900_000_000, "ledger_nanousd": 900_000_000, "difference_nanousd": 0,
        "estimated_nanousd": 0, "billed_input_tokens": 200_000, "ledger_input_tokens": 200_000, "billed_output_tokens": 40_000,
        "ledger_output_tokens": 40_000, "mark": "",
    }  # fmt: skip


async def test_a_bill_of_totals_is_compared_by_day(bill):
    done = await bill("start_time,end_time,amount_value,amount_currency,line_item\nSTART,END,0.93,usd,\n")
    assert done.returncode == 0 and "(all models)" in done.stdout


async def test_a_bill_of_tokens_alone_is_compared_by_tokens(bill):
    head = "start_time,end_time,model,num_model_requests,input_tokens,output_tokens\n"
    good = await bill(head + "START,END,gpt-4o-2024-08-06,2,200000.0,40000.0\nSTART,END,gpt-4o-mini-2024-07-18,1,100000,20000\n")
    less = await bill(head + "START,END,gpt-4o-2024-08-06,2,200000.0,30000.0\nSTART,END,gpt-4o-mini-2024-07-18,1,100000,20000\n")
    assert (good.returncode, less.returncode) == (0, 1) and "differs" in less.stdout


async def test_another_provider_has_nothing_in_the_ledger(bill):
    done = await bill("date,model,cost_usd\nDAY,gpt-4o,0.90\n", "--provider", "azure")
    assert done.returncode == 1 and "missing in the ledger" in done.stdout


async def test_the_ledger_of_a_state_is_read_too(tmp_path, used, sluice):
    file = tmp_path / "bill.csv"
    file.write_text(f"date,model,cost_usd\n{used.day},gpt-4o,0.90\n{used.day},gpt-4o-mini,0.03\n")
    for _ in range(100):  # the index follows the journal within a moment
        done = await asyncio.to_thread(sluice, "reconcile", file, "--state", f"sqlite:{used.sluice.state}")
        if "all of its journal" in done.stderr:
            break
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"date,model,cost_usd\n2026-11-21,gpt-4o,one\n", "bill.csv:2: cost_usd is no amount of dollars"),
        (b"date,model,cost_usd\n2026-11-21,gpt-4o,\"1,000\"\n", "bill.csv:2: cost_usd has a comma"),
        (b"date,model,cost_usd\n", "nothing is billed in it"),
        (b"\xff\xfe\x00", "bill.csv:1: no UTF-8 text"),
        (b"a,b\n", "bill.csv:1: the columns are those of no bill known here"),
        (None, "bill.csv: cannot be read"),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_compared_is_one_clear_line(tmp_path, sluice, raw, said):
    file = tmp_path / "bill.csv"
    if raw is not None:
        file.write_bytes(raw)
    done = await asyncio.to_thread(sluice, "reconcile", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr


# -- the comparison itself


@pytest.mark.parametrize(
    ("bills", "ours"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"), ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"), ("GPT-4o mini", "gpt-4o-mini"),
        ("gpt-5-2025-08-07", "gpt-5"), ("gpt-4.1-2025-04-14", "gpt-4.1"), ("gpt-4-0613", "gpt-4"), ("o1-2024-12-17", "o1"),
        ("chatgpt-4o-latest", "chatgpt-4o-latest"), ("ft-gpt-4o-2024-08-06", "ft:gpt-4o-2024-08-06:org::abc"),
        ("Claude Opus 4.5", "claude-opus-4-5-20251101"), ("Claude Sonnet 4", "claude-sonnet-4-20250514"),
        ("Claude 3.5 Sonnet 2024-10-22", "claude-3-5-sonnet-20241022"), ("Claude Haiku 3", "claude-3-haiku-20240307"),
        ("Claude Haiku 3.5", "claude-3-5-haiku-latest"), ("claude-opus-4-6", "claude-opus-4-6"),
    ],
)  # fmt: skip
async def test_bill_and_ledger_meet_under_one_name(bills, ours):
    assert folded(bills) == folded(ours)


@pytest.mark.parametrize(
    ("one", "other"),
    [("gpt-4o", "gpt-4o-mini"), ("gpt-4", "gpt-4.1"), ("claude-opus-4-5", "claude-opus-4-6"), ("claude-sonnet-4", "claude-sonnet-4-5"),
     ("gpt-4o", "ft:gpt-4o-2024-08-06:org::abc")],
)  # fmt: skip
async def test_what_is_priced_apart_keeps_its_name(one, other):
    assert folded(one) != folded(other)


def ledger(cost: int, model: str = "m", day: str = "2026-11-21", estimated: int = 0) -> dict:
    return {"day": day, "model": model, "cost_nanousd": cost, "estimated_cost_nanousd": estimated, "input_tokens": 1, "output_tokens": 2}


def marks(text: str, *rows: dict) -> list[str]:
    return [line.mark for line in compare(read_bill("b", io.StringIO(text, newline="")), rows)]


@pytest.mark.parametrize(
    ("usd", "nanousd", "mark"),
    [
        ("100", 101_000_000_000, ""), ("100", 101_000_000_001, "differs"), ("100", 99_000_000_000, ""), ("100", 98_999_999_999, "differs"),
        ("0.10", 110_000_000, ""), ("0.10", 110_000_001, "differs"), ("0", 10_000_000, ""), ("-1", -1_000_000_000, ""),
        ("100000.000000001", 10**14 + 1, ""),
    ],
)  # fmt: skip
async def test_the_tolerance_is_one_percent_or_a_cent_to_the_nano_dollar(usd, nanousd, mark):
    assert marks(f"date,model,cost_usd\n2026-11-21,m,{usd}\n", ledger(nanousd)) == [mark]


async def test_a_bill_rounded_to_cents_in_each_line_is_not_called_different_for_it():
    lines = "".join(f"2026-11-21,Claude Opus 4.5,one,t{n},0.00\n" for n in range(10))
    text = "usage_date_utc,model,api_key,token_type,cost_usd\n" + lines
    assert marks(text, ledger(49_000_000, "claude-opus-4-5")) == [""]
    assert marks(text, ledger(51_000_000, "claude-opus-4-5")) == ["differs"]


async def test_what_costs_less_than_a_cent_is_missing_nowhere():
    assert marks("date,model,cost_usd\n2026-11-21,a,0.005\n", ledger(5_000_000, "b")) == ["", ""]


async def test_names_that_fold_together_are_one_line_and_days_stand_apart():
    text = "date,model,cost_usd\n2026-11-21,m-2026-01-01,1\n2026-11-21,m-latest,1\n2026-11-22,m,1\n"
    lines = compare(read_bill("b", io.StringIO(text, newline="")), [ledger(2 * 10**9), ledger(10**9, day="2026-11-22", estimated=7)])
    assert [(line.day, line.model, line.billed_nanousd, line.mark, line.estimated_nanousd) for line in lines] == [
        ("2026-11-21", "m", 2 * 10**9, "", 0), ("2026-11-22", "m", 10**9, "", 7),
    ]  # fmt: skip
