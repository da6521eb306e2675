"""Which row a model name means, and when."""

import time
from datetime import UTC, datetime

import pytest

from proxy.meter import table as module
from proxy.meter.rates import flat
from proxy.meter.refresh import written
from proxy.meter.table import PriceTable


def ns(*when):
    return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000_000


NOW = ns(2026, 11, 20, 12)
TABLE = {
    "source": "test 1",
    "released": "2026-01-01",
    "providers": {
        "maker": {
            "claims": ["^one"],
            "models": [
                {"id": "one", "match": ["=one", "=one-2024-05-13"], "window": 8000, "prices": [{"rates": {"input": 10}}]},
                {"id": "one-mini", "match": ["^one-mini"], "prices": [{"rates": {"input": [[-1, 2], [100, 4]]}}]},
                {"id": "ft:one", "match": ["^ft:one-2024-"], "prices": [{"rates": {"input": 30}}]},
                {"id": "any", "match": ["*mini-any", ["^all", "~\\d$"], "$-end"], "prices": [{"rates": {"input": 1}}]},
                {
                    "id": "dated",
                    "match": ["=dated"],
                    "prices": [
                        {"rates": {"input": 1}},
                        {"from": "2026-03-01", "rates": {"input": 2}},
                        {"hours": [79200, 3600], "rates": {"input": 3}},
                    ],
                    "tiers": [
                        {"tier": "flex", "from": "2026-06-01", "rates": {"input": 7}},
                        {"tier": "flex", "rates": {"input": 5, "output": 6}},
                    ],
                },
                {"id": "late", "match": ["=late"], "prices": [{"from": "2027-01-01", "rates": {"input": 9}}]},
            ],
        },
        "seller": {"fallbacks": ["maker", "absent"], "models": [{"id": "own", "match": ["=own"], "prices": [{"rates": {"input": 8}}]}]},
    },
}  # fmt: skip


@pytest.fixture
def table():
    return PriceTable.load(written(**TABLE))


@pytest.mark.parametrize(
    ("price_id", "model", "name"),
    [
        ("maker", "one", "one"),
        ("maker", "ONE ", "one"),
        ("maker", "one-2024-05-13", "one"),
        ("maker", "one-20240513", "one"),  # a compact date
        ("maker", "one-2025-01-31", "one"),  # an unknown snapshot costs what its model costs
        ("maker", "one@20250131", "one"),
        ("maker", "one-latest", "one"),
        ("maker", "one-20251399", None),  # no date
        ("maker", "one-pro", None),
        ("maker", "one-mini-7", "one-mini"),
        ("maker", "x-mini-any-x", "any"),
        ("maker", "all1", "any"),
        ("maker", "all", None),
        ("maker", "the-end", "any"),
        ("maker", "ft:one-2024-08-06:org::id", "ft:one"),
        ("maker", "ft:one-mini-any:org::id", None),  # a loose rule never prices a fine-tune
        ("maker", "ft:other-latest", None),
        ("maker", "models/one", "one"),
        ("maker", "publishers/maker/models/one", "one"),
        ("maker", "projects/p/locations/l/publishers/maker/models/one", "one"),
        ("seller", "own", "own"),
        ("seller", "one-mini", "one-mini"),  # another maker's model, sold here
        ("nobody", "one", None),
        ("", "one", "one"),
        ("", "own", "own"),
        ("", "dated", "dated"),  # spelt by the table, though not claimed
        ("", "x-mini-any-x", None),  # a loose rule does not catch what its provider does not claim
        ("maker", "", None),
        ("maker", "one" + "x" * 300, None),
    ],
)
def test_a_name_means_its_row_or_nothing(table, price_id, model, name):
    row = table.row(price_id, model, NOW)
    assert (row and row.name) == name
    assert table.row(price_id, model, NOW) == row


def test_a_row_tells_its_source_date_provider_and_window(table):
    row = table.row("seller", "one", NOW)
    assert (row.source, row.date, row.provider, row.window, row.mark) == ("test 1", "2026-01-01", "maker", 8000, "table")
    assert table.row("maker", "one-mini", NOW).rates == {"input": ((-1, 2), (100, 4))}


@pytest.mark.parametrize(
    ("at", "rate", "flex", "date"),
    [
        (ns(2026, 2, 28, 21, 59, 59), 1, {"input": flat(5), "output": flat(6)}, "2026-01-01"),
        (ns(2026, 2, 28, 22), 3, {"input": flat(5), "output": flat(6)}, "2026-01-01"),  # at night, over midnight
        (ns(2026, 3, 1, 0, 59, 59), 3, {"input": flat(5), "output": flat(6)}, "2026-01-01"),
        (ns(2026, 3, 1, 1), 2, {"input": flat(5), "output": flat(6)}, "2026-03-01"),
        (ns(2026, 6, 1, 12), 2, {"input": flat(7), "output": flat(6)}, "2026-03-01"),  # the first in force wins, rate by rate
    ],
)
def test_the_price_is_that_of_the_moment(table, at, rate, flex, date):
    row = table.row("maker", "dated", at)
    assert (row.rates, row.tiers, row.date) == ({"input": flat(rate)}, {"flex": flex}, date)


def test_hours_within_a_day_end_where_they_say():
    price = {"hours": [3600, 7200]}
    assert [module._in_force(price, ns(2026, 1, 1, hour)) for hour in (0, 1, 2)] == [False, True, False]


def test_before_its_first_price_a_model_costs_that_price(table):
    assert table.row("maker", "late", NOW).rates == {"input": flat(9)}


def test_names_from_outside_are_remembered_within_bounds(table, monkeypatch):
    monkeypatch.setattr(module, "_MEMORY", 8)
    for number in range(50):
        table.row("maker", f"guess-{number}", NOW)
    assert len(table._found) <= 8


def test_no_table_is_read_from_other_bytes():
    for text in (b"", b"[]", b"{}", b"\xff"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            PriceTable.load(text)


def test_the_committed_table_loads_fast_and_knows_the_common_models():
    best = min(_seconds(PriceTable.read) for _ in range(5))
    table = PriceTable.read()
    assert best < 0.03
    known = [
        ("openai", "gpt-4o"), ("openai", "gpt-4o-mini-2024-07-18"), ("openai", "gpt-5"), ("openai", "o3-mini"), ("azure", "gpt-4o"),
        ("openai", "text-embedding-3-small"), ("openai", "ft:gpt-4o-mini-2024-07-18:org::id"), ("anthropic", "claude-sonnet-4-5-20250929"),
        ("google", "gemini-2.5-flash"), ("google", "claude-sonnet-4-5@20250929"), ("mistral", "mistral-large-latest"),
        ("cohere", "command-r-08-2024"), ("groq", "llama-3.3-70b-versatile"), ("deepseek", "deepseek-chat"), ("x-ai", "grok-4"),
        ("openrouter", "openai/gpt-4o-mini"), ("perplexity", "sonar"), ("", "gpt-4o"), ("", "claude-haiku-4-5"), ("", "gemini-2.5-pro"),
        ("", "text-embedding-3-small"), ("", "mistral-small-latest"), ("", "command-r"),
    ]  # fmt: skip
    assert [(price_id, model) for price_id, model in known if table.row(price_id, model, NOW) is None] == []
    assert {"gpt-4o", "claude-sonnet-4-5"} <= table.models()


def _seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
