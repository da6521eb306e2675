"""Reads a provider's exported bill (CSV, RFC 4180) into sums by UTC day and model. Guesses at no number: what is not plain is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from proxy.exchange import NANO

Fields = Mapping[str, str]

MAX_NAME = 256
MAX_USD = 10**9
DAY_S = 86_400
WHEN = ("start_time", "start_time_iso", "usage_date_utc", "date", "timestamp")
CENT_ROUNDING = NANO // 200  # half a cent, in nano-dollars
_MONEY = re.compile(r"-?\$?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,5})?", re.ASCII)  # OpenAI writes zero as 0E-6176
_COUNT = re.compile(r"\d{1,18}(?:\.0*)?", re.ASCII)  # and counts as 59200.0
_SECONDS = re.compile(r"\d{9,10}(?:\.0*)?", re.ASCII)
_CENTS = re.compile(r"-?\d+(?:\.\d{1,2})?", re.ASCII)


class BillProblem(ValueError):
    """What is wrong with the file, as file:line: sentence. Repeats no field."""


@dataclass(slots=True)
class Billed:
    """What is billed for one model on one UTC day. None: this form of bill does not say."""

    nanousd: int | None = None
    input_tokens: int | None = None  # cached ones included
    output_tokens: int | None = None
    rounding_nanousd: int = 0  # how far the sum may be off because the provider rounded each line to cents


@dataclass(frozen=True, slots=True)
class Bill:
    """`provider`: whose export this is; None: the plain form. Models are spelt as the bill spells them; None: all models together."""

    form: str
    provider: str | None
    sums: dict[tuple[str, str | None], Billed]  # by (YYYY-MM-DD, model)


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of export. It is recognised by the columns it `needs`, the more telling forms first."""

    name: str
    provider: str | None
    needs: frozenset[str]
    model: Callable[[Fields], str | None]
    billed: Callable[[Fields], Billed | None]  # None: a line that bills nothing


def read_bill(name: str, lines: Iterable[str]) -> Bill:
    """`name` is what errors call the file; `lines` keep their line ends (open the file with newline=""). Raises BillProblem."""
    reader = csv.reader(_unmarked(lines), strict=True)
    at = 1
    try:
        titles = [title.strip().lower() for title in next(_filled(reader), [])]
        form = _form_of(titles)
        sums: dict[tuple[str, str | None], Billed] = {}
        for row in _filled(reader):
            at = reader.line_num
            if len(row) != len(titles):
                raise ValueError(f"{len(row)} fields where the header has {len(titles)}")
            _add(sums, form, dict(zip(titles, row, strict=True)))
    except UnicodeDecodeError:
        raise BillProblem(f"{name}:{reader.line_num + 1}: no UTF-8 text") from None
    except (ValueError, csv.Error) as problem:
        raise BillProblem(f"{name}:{max(at, reader.line_num)}: {problem}") from None
    return Bill(form.name, form.provider, sums)


def _unmarked(lines: Iterable[str]) -> Iterator[str]:
    """Without a byte order mark, which would hide the quotes of the first field."""
    for at, line in enumerate(lines):
        yield line if at else line.removeprefix("\ufeff")


def _filled(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    return (row for row in reader if any(field.strip() for field in row))


def _form_of(titles: list[str]) -> Form:
    if len(set(titles)) != len(titles):
        raise ValueError("two columns have the same name")
    for form in FORMS:
        if form.needs <= set(titles):
            return form
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.needs))}" for form in FORMS)
    raise ValueError(f"the columns are those of no bill known here ({known})")


def _add(sums: dict[tuple[str, str | None], Billed], form: Form, fields: Fields) -> None:
    billed = form.billed(fields)
    if billed is None:
        return
    model = form.model(fields)
    if model is not None and (len(model) > MAX_NAME or not model.isprintable()):
        raise ValueError(f"the model is no name of at most {MAX_NAME} printable characters")
    total = sums.setdefault((_day(fields), model), Billed())
    total.nanousd = _plus(total.nanousd, billed.nanousd)
    total.input_tokens = _plus(total.input_tokens, billed.input_tokens)
    total.output_tokens = _plus(total.output_tokens, billed.output_tokens)
    total.rounding_nanousd += billed.rounding_nanousd


def _plus(one: int | None, other: int | None) -> int | None:
    return one if other is None else other + (one or 0)


# -- fields --------------------------------------------------------------------------------------------------------------


def _day(fields: Fields) -> str:
    """The UTC day of a line, by the first column that says when."""
    title = next(
        (one for one in ("start_time", "start_time_iso", "usage_date_utc", "date", "timestamp") if fields.get(one, "").strip()), None
    )
    if title is None:
        raise ValueError("the line has no date")
    began = _instant(title, fields[title].strip())
    if title == "start_time" and fields.get("end_time", "").strip():
        length = _instant("end_time", fields["end_time"].strip()) - began
        if length.total_seconds() > DAY_S:
            raise ValueError("the line covers more than a day: export with an interval of one day or less")
    return f"{began:%Y-%m-%d}"


def _instant(title: str, text: str) -> datetime:
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(int(text.partition(".")[0]), UTC)
        if len(text) < 10 or not text[:4].isdecimal():
            raise ValueError
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{title} is no date: YYYY-MM-DD, RFC 3339 or Unix seconds") from None


def _nanousd(fields: Fields, title: str) -> int:
    """A sum of dollars. Zero where the field is empty."""
    text = fields[title].strip()
    if not text:
        return 0
    if "," in text:
        raise ValueError(f"{title} has a comma in it: export numbers without thousands separators, and with a decimal point")
    if len(text) > 100 or not _MONEY.fullmatch(text):
        raise ValueError(f"{title} is no amount of dollars")
    with localcontext() as context:
        context.prec = 120
        dollars = Decimal(text.replace("$", ""))
        if abs(dollars) > MAX_USD:
            raise ValueError(f"{title} is more than {MAX_USD:,} dollars")
        return int((dollars * NANO).to_integral_value(ROUND_HALF_EVEN))


def _count(fields: Fields, *titles: str) -> int:
    """The sum of these columns; one that is not there or empty counts nothing."""
    total = 0
    for title in titles:
        text = fields.get(title, "").strip()
        if "," in text:
            raise ValueError(f"{title} has a comma in it: export numbers without thousands separators")
        if text and not _COUNT.fullmatch(text):
            raise ValueError(f"{title} is no whole number")
        total += int(text.partition(".")[0] or 0)
    return total


def _in_dollars(fields: Fields, title: str) -> None:
    if fields.get(title, "").strip().lower() not in ("", "usd"):
        raise ValueError(f"{title} is not USD: only bills in dollars can be compared")


def _named(title: str) -> Callable[[Fields], str | None]:
    return lambda fields: fields.get(title, "").strip() or None


# -- OpenAI: Usage → Export, costs (2025 on), costs (2023 and 2024), activity ----------------------------------------------------


def _line_item(fields: Fields) -> str | None:
    """`priority | gpt-5-2025-08-07, cached input, long context` → the model; what names none (`web search tool calls`) as it is."""
    item = fields.get("line_item", "").strip()
    model, comma, _ = item.partition(",")
    return (model.rpartition("|")[2].strip() if comma else item) or None


def _openai_cost(fields: Fields) -> Billed | None:
    if not fields["amount_value"].strip():  # a day without spend
        return None
    _in_dollars(fields, "amount_currency")
    billed = Billed(_nanousd(fields, "amount_value"))
    kind = fields.get("line_item", "").replace(", long context", "")
    if fields.get("quantity", "").strip() and kind.endswith((" input", " cache writes")):
        billed.input_tokens = _count(fields, "quantity")
    elif fields.get("quantity", "").strip() and kind.endswith(" output"):
        billed.output_tokens = _count(fields, "quantity")
    return billed


def _openai_old_cost(fields: Fields) -> Billed:
    _in_dollars(fields, "currency")
    return Billed(_nanousd(fields, "cost_in_major"))


def _openai_tokens(fields: Fields) -> Billed | None:
    if not fields["num_model_requests"].strip():
        return None
    return Billed(None, _count(fields, "input_tokens"), _count(fields, "output_tokens"))


def _openai_old_tokens(fields: Fields) -> Billed:
    return Billed(None, _count(fields, "n_context_tokens_total"), _count(fields, "n_generated_tokens_total"))


# -- Anthropic: Console → Cost, Usage ------------------------------------------------------------------------------------


def _anthropic_cost(fields: Fields) -> Billed:
    is_rounded = _CENTS.fullmatch(fields["cost_usd"].strip()) is not None
    return Billed(_nanousd(fields, "cost_usd"), rounding_nanousd=CENT_ROUNDING if is_rounded else 0)


_ANTHROPIC_KINDS = ("no_cache", "cache_write", "cache_write_5m", "cache_write_1h", "cache_read")
_ANTHROPIC_INPUT = tuple(f"usage_input_tokens_{kind}" for kind in _ANTHROPIC_KINDS)


def _anthropic_tokens(fields: Fields) -> Billed:
    return Billed(None, _count(fields, *_ANTHROPIC_INPUT), _count(fields, "usage_output_tokens"))


def _plain(fields: Fields) -> Billed:
    has_tokens = "input_tokens" in fields or "output_tokens" in fields
    tokens = (_count(fields, "input_tokens"), _count(fields, "output_tokens")) if has_tokens else (None, None)
    return Billed(_nanousd(fields, "cost_usd"), *tokens)


FORMS = (
    Form("OpenAI costs", "openai", frozenset({"start_time", "amount_value"}), _line_item, _openai_cost),
    Form("OpenAI costs, 2023 to 2024", "openai", frozenset({"date", "name", "cost_in_major"}), _named("name"), _openai_old_cost),
    Form(
        "OpenAI activity",
        "openai",
        frozenset({"start_time", "model", "num_model_requests", "input_tokens", "output_tokens"}),
        _named("model"),
        _openai_tokens,
    ),
    Form(
        "OpenAI activity, 2023 to 2024",
        "openai",
        frozenset({"timestamp", "model", "n_context_tokens_total", "n_generated_tokens_total"}),
        _named("model"),
        _openai_old_tokens,
    ),
    Form("Anthropic cost", "anthropic", frozenset({"usage_date_utc", "model", "cost_usd"}), _named("model"), _anthropic_cost),
    Form(
        "Anthropic usage",
        "anthropic",
        frozenset({"usage_date_utc", "model_version", "usage_input_tokens_no_cache", "usage_output_tokens"}),
        _named("model_version"),
        _anthropic_tokens,
    ),
    Form("plain", None, frozenset({"date", "model", "cost_usd"}), _named("model"), _plain),
)
