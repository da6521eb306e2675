"""Providers' bills as they are exported, in every form known here; what is not plain is refused with its line."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record.invoice import FORMS, Bill, BillProblem, read_bill

NANO = 10**9

OPENAI_COSTS = """\
start_time,end_time,amount_value,amount_currency,line_item,quantity,project_id
1784937600,1785024000,0.2500000000000000,usd,"gpt-4o-2024-08-06, input",100000.0,proj_1
1784937600,1785024000,0E-6176,usd,"gpt-4o-2024-08-06, cached input",0.0,proj_1
1784937600,1785024000,1.000000000000000000000000000000000000001,usd,"gpt-4o-2024-08-06, output",100000.0,proj_1
1784937600,1785024000,0.5,usd,"priority | gpt-5-2025-08-07, output, long context",20000.0,proj_1
1784937600,1785024000,0.03,usd,web search tool calls,3.0,proj_1
1785024000,1785110400,,,,,
"""
OPENAI_TOTALS = """\
start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,organization_id,organization_name
1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,0.8958740000000000,usd,,,org-1,Personal
"""
OPENAI_OLD_COSTS = """\
timestamp,currency,name,cost,organization_id,project_id,project_name,organization_name,cost_in_major,date
1722470400,usd,GPT-4o mini,215,org-1,proj_1,Default,Personal,2.15,2024-08-01
"""
OPENAI_ACTIVITY = """\
start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens
1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,proj_1,10.0,user-1,key_1,gpt-4o-2024-08-06,FALSE,default,59200.0,10646.0,5760.0
1759881600,1759968000,2025-10-08T00:00:00+00:00,2025-10-09T00:00:00+00:00,,,,,,,,,,
"""
OPENAI_OLD_ACTIVITY = """\
timestamp,model,n_requests,n_context_tokens_total,n_generated_tokens_total
1722470400,gpt-4-0613,2,300,50
"""
ANTHROPIC_COST = """\
usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type,inference_geo,speed
2026-03-15,Claude Opus 4.6,Default,one,message,≤ 200k,input_no_cache,1.50,1.50,token,global,
2026-03-15,Claude Opus 4.6,"Team, EU",two,message,≤ 200k,output,0.50,0.50,token,global,
2026-03-16,Claude Haiku 4.5,Default,one,message,≤ 200k,output,0.123456,0.123456,token,global,
"""
ANTHROPIC_USAGE = """\
usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed
2026-03-22T10:00,claude-sonnet-4-20250514,one,Default,standard,≤ 200k,100000,1,20,300,5000,10,not_available,
2026-03-22T11:00,claude-sonnet-4-20250514,one,Default,standard,≤ 200k,1,0,0,0,2,0,not_available,
"""
PLAIN = """\
date,model,cost_usd,input_tokens,output_tokens
2026-11-21,gpt-4o,$12.345678901,1000,2000
2026-11-21,gpt-4o,-2.345678901,,
"""


def read(text: str) -> Bill:
    return read_bill("bill.csv", io.StringIO(text, newline=""))


def sums(text: str) -> dict:
    return {key: (it.nanousd, it.input_tokens, it.output_tokens) for key, it in read(text).sums.items()}


@pytest.mark.parametrize(
    ("text", "form", "provider", "expected"),
    [
        (OPENAI_COSTS, "OpenAI costs", "openai", {
            ("2026-07-25", "gpt-4o-2024-08-06"): (1_250_000_000, 100_000, 100_000),
            ("2026-07-25", "gpt-5-2025-08-07"): (500_000_000, None, 20_000),
            ("2026-07-25", "web search tool calls"): (30_000_000, None, None),
        }),
        (OPENAI_TOTALS, "OpenAI costs", "openai", {("2025-10-05", None): (895_874_000, None, None)}),
        (OPENAI_OLD_COSTS, "OpenAI costs, 2023 to 2024", "openai", {("2024-08-01", "GPT-4o mini"): (2_150_000_000, None, None)}),
        (OPENAI_ACTIVITY, "OpenAI activity", "openai", {("2025-10-05", "gpt-4o-2024-08-06"): (None, 59_200, 10_646)}),
        (OPENAI_OLD_ACTIVITY, "OpenAI activity, 2023 to 2024", "openai", {("2024-08-01", "gpt-4-0613"): (None, 300, 50)}),
        (ANTHROPIC_COST, "Anthropic cost", "anthropic", {
            ("2026-03-15", "Claude Opus 4.6"): (2_000_000_000, None, None),
            ("2026-03-16", "Claude Haiku 4.5"): (123_456_000, None, None),
        }),
        (ANTHROPIC_USAGE, "Anthropic usage", "anthropic", {("2026-03-22", "claude-sonnet-4-20250514"): (None, 100_322, 5002)}),
        (PLAIN, "plain", None, {("2026-11-21", "gpt-4o"): (10 * NANO, 1000, 2000)}),
    ],
)  # fmt: skip
def test_each_form_is_known_by_its_columns_and_summed_by_utc_day_and_model(text, form, provider, expected):
    bill = read(text)
    assert (bill.form, bill.provider, sums(text)) == (form, provider, expected)


def test_every_form_is_shown_above():
    shown = {read(text).form for text in (OPENAI_COSTS, OPENAI_OLD_COSTS, OPENAI_ACTIVITY, OPENAI_OLD_ACTIVITY, ANTHROPIC_COST,
                                          ANTHROPIC_USAGE, PLAIN)}  # fmt: skip
    assert shown == {form.name for form in FORMS}


def test_a_line_rounded_to_cents_may_be_half_a_cent_off():
    found = read(ANTHROPIC_COST).sums
    assert found["2026-03-15", "Claude Opus 4.6"].rounding_nanousd == 10_000_000
    assert found["2026-03-16", "Claude Haiku 4.5"].rounding_nanousd == 0


def test_a_byte_order_mark_crlf_quotes_blank_lines_and_capitals_in_the_header_are_no_matter():
    text = '\ufeff"Date",MODEL, cost_usd\r\n\r\n2026-11-21,"gpt-4o, ""mini""",1.5\r\n'
    assert sums(text) == {("2026-11-21", 'gpt-4o, "mini"'): (1_500_000_000, None, None)}


@pytest.mark.parametrize(
    ("when", "day"),
    [("2026-11-21", "2026-11-21"), ("2026-11-21T23:30:00-01:00", "2026-11-22"), ("2026-11-21 23:59:59", "2026-11-21"),
     ("2026-11-21T10:00:00Z", "2026-11-21"), ("1795219200", "2026-11-21"), ("1795219200.0", "2026-11-21")],
)  # fmt: skip
def test_days_are_utc(when, day):
    assert list(sums(f"date,model,cost_usd\n{when},m,1\n")) == [(day, "m")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('2026-11-21,m,"1,234.50",1,1', "cost_usd has a comma"),
        ('2026-11-21,m,"1,5",1,1', "cost_usd has a comma"),
        ('2026-11-21,m,1,"1,000",1', "input_tokens has a comma"),
        ("2026-11-21,m,1.5.0,1,1", "cost_usd is no amount"),
        ("2026-11-21,m,NaN,1,1", "cost_usd is no amount"),
        ("2026-11-21,m,Infinity,1,1", "cost_usd is no amount"),
        ("2026-11-21,m,1_000,1,1", "cost_usd is no amount"),
        ("2026-11-21,m,٣,1,1", "cost_usd is no amount"),
        ("2026-11-21,m,1e99999,1,1", "more than 1,000,000,000 dollars"),
        ("2026-11-21,m,1e999999999,1,1", "cost_usd is no amount"),
        (f"2026-11-21,m,{'9' * 200},1,1", "cost_usd is no amount"),
        ("2026-11-21,m,1,-5,1", "input_tokens is no whole number"),
        ("2026-11-21,m,1,1.5,1", "input_tokens is no whole number"),
        (f"2026-11-21,m,1,{'9' * 5000},1", "input_tokens is no whole number"),
        ("21/11/2026,m,1,1,1", "date is no date"),
        ("2026-13-01,m,1,1,1", "date is no date"),
        ("yesterday,m,1,1,1", "date is no date"),
        (",m,1,1,1", "the line has no date"),
        ("2026-11-21,m,1,1", "4 fields where the header has 5"),
        ("2026-11-21,m,1,1,1,1", "6 fields where the header has 5"),
        ('2026-11-21,"m,1,1,1', "unexpected end of data"),
        ('2026-11-21,"m"x,1,1,1', "expected after"),
        (f"2026-11-21,{'m' * 300},1,1,1", "no name of at most 256"),
        (f"2026-11-21,{'m' * 200_000},1,1,1", "field larger than field limit"),
        ("2026-11-21,m\x1b[2J,1,1,1", "no name of at most 256"),
        ("2026-11-21,m\x00,1,1,1", "no name of at most 256"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_file_and_line_and_no_echo(line, said):
    with pytest.raises(BillProblem) as no:
        read("date,model,cost_usd,input_tokens,output_tokens\n2026-11-20,ok,1,1,1\n" + line + "\n")
    assert str(no.value).startswith("bill.csv:3: ") and said in str(no.value)
    assert len(str(no.value)) < 200


def test_other_money_than_dollars_and_lines_longer_than_a_day_are_refused():
    with pytest.raises(BillProblem, match=r"bill\.csv:2: amount_currency is not USD"):
        read("start_time,amount_value,amount_currency\n1759622400,1,eur\n")
    with pytest.raises(BillProblem, match=r"bill\.csv:2: the line covers more than a day"):
        read("start_time,end_time,amount_value\n1759622400,1760227200,1\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no bill known here"),
        ("foo,bar\n1,2\n", "no bill known here"),
        ("date,model,cost_usd,date\n", "two columns have the same name"),
    ],
)
def test_a_file_that_is_no_bill_is_told_what_a_bill_looks_like(text, said):
    with pytest.raises(BillProblem, match=said) as no:
        read(text)
    assert str(no.value).startswith("bill.csv:1: ")
    assert "known here" not in said or "plain: cost_usd, date, model" in str(no.value)


HEADERS = [text.splitlines()[0] for text in (OPENAI_COSTS, OPENAI_ACTIVITY, ANTHROPIC_COST, ANTHROPIC_USAGE, PLAIN)]


@given(st.sampled_from(HEADERS), st.text(max_size=80))
def test_no_text_makes_a_crash(header, text):
    try:
        bill = read(f"{header}\n{text}")
    except BillProblem as no:
        assert str(no).startswith("bill.csv:")
    else:
        assert isinstance(bill, Bill)
