"""genai-prices agrees with our cost of every recorded call, to the nano-dollar; where it does not, the reason stands here."""

import json
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

import pytest
from genai_prices import calc_price
from genai_prices.types import Usage as TheirUsage

from proxy.exchange import NANO, Usage
from proxy.meter.row import cost
from proxy.meter.table import PriceTable

TRAFFIC = Path(__file__).parents[2].parent / "shared" / "traffic"
PROVIDERS = {  # of a recording → price id
    "openai": "openai", "azure-openai": "azure", "anthropic": "anthropic", "google-gemini": "google", "google-vertex": "google",
    "cohere": "cohere", "mistral": "mistral", "groq": "groq", "openrouter": "openrouter",
}  # fmt: skip
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
THEIRS = {
    "input_tokens": "input_tokens", "output_tokens": "output_tokens", "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens", "cache_write_1h_tokens": "cache_write_1h_tokens", "web_search_requests": "web_searches",
    "reasoning_tokens": "output_reasoning_tokens", "input_audio_tokens": "input_audio_tokens", "output_audio_tokens": "output_audio_tokens",
    "input_image_tokens": "input_image_tokens", "output_image_tokens": "output_image_tokens", "input_video_tokens": "input_video_tokens",
}  # fmt: skip
UNITS = {
    "web_search_requests": "searches", "search_units": "searches", "billed_input_tokens": "billed_input",
    "billed_output_tokens": "billed_output", "input_audio_tokens": "input_audio", "output_audio_tokens": "output_audio",
    "input_image_tokens": "input_image", "output_image_tokens": "output_image", "input_video_tokens": "input_video",
}  # fmt: skip
DIFFERENCES = {  # by recording
    "346238e0121cf971": "cached audio and video: genai-prices refuses the figures without a split that expected_usage does not have",
}
ONLY_OURS = {  # by model
    "rerank-english-v3.0": "of supplement.json: genai-prices has no price per search of Cohere's",
    "models/gemini-2.5-pro": "the resource form of a Gemini name, as replies spell it; genai-prices knows the bare name only",
}


def rows():
    for file in sorted(TRAFFIC.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            usage = row.get("expected_usage")
            if row.get("provider") in PROVIDERS and usage and usage.get("billable") is not False:
                yield row


def our_usage(expected):
    return Usage(
        input=expected.get("input_tokens", 0),
        cached_input=expected.get("cached_input_tokens", 0),
        cache_write=expected.get("cache_write_tokens", 0),
        cache_write_1h=expected.get("cache_write_1h_tokens", 0),
        output=expected.get("output_tokens", 0),
        reasoning=expected.get("reasoning_tokens", 0),
        source="provider",
        units={ours: expected[name] for name, ours in UNITS.items() if expected.get(name)},
        tier=expected.get("service_tier"),
    )


def their_nanousd(row, model):
    """Their price, rounded up once as ours; None where they know none."""
    expected = row["expected_usage"]
    values = {theirs: expected[name] for name, theirs in THEIRS.items() if expected.get(name)}
    if "billed_input_tokens" in expected:
        values |= {"input_tokens": expected["billed_input_tokens"], "output_tokens": expected.get("billed_output_tokens", 0)}
    tier = expected.get("service_tier")
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier else None
    try:
        price = calc_price(
            TheirUsage(**values), model, provider_id=PROVIDERS[row["provider"]], genai_request_timestamp=AT, price_context=context
        )
    except LookupError:
        return None
    except ValueError:
        return -1  # they cannot tell
    return int((price.total_price * NANO).to_integral_value(ROUND_CEILING))


@pytest.mark.skipif(not TRAFFIC.is_dir(), reason="recorded traffic skipped LOUDLY: shared/ is not here")
def test_every_recorded_call_costs_what_genai_prices_says():
    table, compared, unknown, differing = PriceTable.read(), 0, set(), set()
    unexplained = []
    for row in rows():
        for model in {row["model_request"], row["model_response"]} - {None}:
            found = table.row(PROVIDERS[row["provider"]], model, int(AT.timestamp()) * NANO)
            theirs = their_nanousd(row, model)
            ours = None if found is None else cost(found, our_usage(row["expected_usage"]))
            if ours is None and theirs is None:
                unknown.add(f"{row['provider']}/{model}")
            elif theirs is None:
                if model not in ONLY_OURS:
                    unexplained.append(f"{row['id']} {row['provider']}/{model}: only ours, {found.name}")
            else:
                compared += 1
                differing |= {row["id"]} if ours != theirs else set()
                if ours != theirs and row["id"] not in DIFFERENCES:
                    unexplained.append(f"{row['id']} {row['provider']}/{model}: ours {ours}, theirs {theirs}, {row['expected_usage']}")
    print(f"{compared} compared; unknown to both: {', '.join(sorted(unknown))}")
    assert not unexplained, "\n".join(unexplained)
    assert differing == set(DIFFERENCES), "a listed difference is none any more"
    assert compared > 400


def test_the_recorded_prices_are_exact_to_the_nano_dollar():
    """Without the recordings too: one call of each kind, against their decimal arithmetic."""
    calls = [
        ("openai", "gpt-4o", {"input_tokens": 1117, "output_tokens": 46, "cached_input_tokens": 1024}),
        (
            "anthropic",
            "claude-sonnet-4-5",
            {"input_tokens": 250_001, "output_tokens": 9, "cache_write_tokens": 7, "cache_write_1h_tokens": 3},
        ),
        ("google-gemini", "gemini-2.5-flash", {"input_tokens": 77, "output_tokens": 5, "input_audio_tokens": 50}),
        ("openrouter", "google/gemini-2.5-flash", {"input_tokens": 1_000_003, "output_tokens": 1}),
    ]
    table = PriceTable.read()
    for provider, model, expected in calls:
        found = table.row(PROVIDERS[provider], model, int(AT.timestamp()) * NANO)
        ours = cost(found, our_usage(expected))
        assert ours == their_nanousd({"provider": provider, "expected_usage": expected}, model) > 0, (provider, model)
        assert Decimal(ours) == int(ours)
