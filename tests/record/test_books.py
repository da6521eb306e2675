"""Every attempt and every refusal of somebody stands in the books exactly once."""

import copy

import pytest
from support.also import also

from proxy.exchange import Caller, Row, Try, Usage, crashed, sort_of
from proxy.memo import Memo
from proxy.record import books as books_module
from proxy.record.books import Books
from proxy.refusal import Refusal


class Written:
    """Remembers what it was told, as store, metrics and log in one."""

    def __init__(self):
        self.seen, self.broken = [], set()

    def __getattr__(self, name):
        def note(*args, **fields):
            self.seen.append((name, *args))
            if name in self.broken:
                raise RuntimeError("secret text")

        return note

    def named(self, name):
        return [entry[1:] for entry in self.seen if entry[0] == name]


class Told(Written):
    pass


@pytest.fixture
def store():
    return Written()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def books(store, told, clock):
    return Books(store, told, told, clock)


def test_an_attempt_whose_usage_was_asked_for_too_early_is_worth_its_estimate_once_it_is_held():
    one = Try(1, "first", "openai", "gpt-4o", None)
    assert one.usage == Usage()
    one.held_usage = (12, 34)
    assert (one.usage.input, one.usage.output, one.usage.source) == (12, 34, "estimate") and one.usage is one.usage
    one.usage = Usage(1, output=2, source="provider")
    assert (one.usage.input, one.usage.source) == (1, "provider")


def test_attempts_are_of_one_sort_where_they_differ_in_their_caller_alone(tell):
    def sort(name="bot", tier="premium", team="finance", model="gpt-4o", **changes):
        story = tell(**{"caller": Caller(name, "key", tier, team), **changes})
        story.tries[0].model = model
        return sort_of(story, story.tries[0])

    assert sort() == sort("ann")
    others = [sort(caller=None), sort(tier="finance", team="premium"), sort(tier="None"), sort(tier=None), sort(model=None),
              sort(model="None"), sort(model="gpt-4o', 'chat"), sort(operation="embeddings"), sort(generation=8)]  # fmt: skip
    assert len({sort(), *others}) == len(others) + 1


def test_what_goes_by_the_sort_of_an_attempt_gets_one_text_for_all_callers(books, tell):
    stories = [tell(caller=Caller(name, "key", "premium", "finance")) for name in ("ann", "bob")]
    for story in stories:
        books.held(story, story.tries[0], Memo(), 1, 2)
    ann, bob = [story.tries[0].memo.sort for story in stories]
    assert ann is bob and ann == sort_of(stories[1], stories[1].tries[0])


def test_all_who_tell_of_a_call_mean_the_same_end(books, tell, clock):
    story = tell(ended=0.0)
    clock.at += 3
    books.close(story)
    assert story.ended == clock.at


def test_a_row_has_all_fields_of_the_attempt(books, tell):
    story = tell()
    row = books.row_of(story, story.tries[0])._asdict()
    assert row == {
        "id": "slu-1/1", "request_id": "req-1", "attempt": 1, "kind": "first", "parent_id": None, "at": 1_790_000_000_100_000_000,
        "caller": "bot", "team": "finance", "tier": "premium", "provider": "openai", "model": "gpt-4o", "operation": "chat",
        "credential": "OPENAI_API_KEY", "status": 200, "end": "done", "input_tokens": 10, "cached_input_tokens": 4, "cache_write_tokens": 2,
        "output_tokens": 5, "reasoning_tokens": 3, "usage_detail": {"prompt_tokens": 10}, "usage_source": "provider", "usage_note": "",
        "cost_nanousd": 500, "held_nanousd": 900, "price_row": {"name": "gpt-4o"}, "policy_generation": 7, "duration_ms": 1750.0,
        "first_byte_ms": 750.0, "overhead_ms": 500.0, "streamed": True,
    }  # fmt: skip


def test_a_second_row_of_an_attempt_tells_its_end_and_the_same_of_whose_it_is(books, tell):
    story = tell()
    (one,) = story.tries
    held = books.row_of(story, one)
    one.status, one.end, one.cost_nanousd, one.usage = 502, "upstream_cut", 7, Usage(input=1, source="counted", note="n")
    settled = books.row_of(story, one)
    changed = {"status": 502, "end": "upstream_cut", "cost_nanousd": 7, "input_tokens": 1, "usage_source": "counted", "usage_note": "n"}
    gone = {"cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "usage_detail": {}}
    assert settled == held._replace(**changed, **gone)


def test_the_row_inside_a_hold_is_the_row_of_an_attempt_whose_estimate_nobody_confirmed(books, tell):
    story = tell()
    (one,) = story.tries
    one.status, one.first_byte, one.ended, one.price_row, one.cost_nanousd = None, None, one.began, {"name": "gpt-4o"}, 900
    held = Row._make(crashed(books.held(story, one, Memo(), 12, 34), 900))
    one.used, one.held_usage, one.end = None, (12, 34), "crashed"
    assert held == books.row_of(story, one)
    assert (held.usage_source, held.usage_note, held.input_tokens, held.output_tokens) == ("estimate", "unconfirmed", 12, 34)


@pytest.mark.parametrize("seconds", [0.0, 4e-7, 0.0012345678, 1.0005, 59.9999999, 3600.123456])
def test_times_of_a_row_are_whole_microseconds(books, tell, seconds):
    story = tell()
    one = story.tries[0]
    one.began, one.first_byte, one.ended = 1000.0, 1000.0 + seconds, 1000.0 + seconds
    row = books.row_of(story, one)
    assert row.duration_ms == row.first_byte_ms == round((one.ended - one.began) * 1000, 3)


def test_names_of_models_show_without_keys_and_are_remembered_in_bounded_number(books, tell, monkeypatch):
    monkeypatch.setattr(books_module, "MAX_MODELS", 5)
    known = books_module._shown_models
    known.clear()
    for number in range(20):
        for name in (f"m{number}", f"slk-{number:043}", f"{number}" + " m" * 200, None):
            for _ in range(2):
                story = tell()
                story.tries[0].model = name
                assert books.row_of(story, story.tries[0]).model == ("[redacted]" if name and name.startswith("slk-") else name)
        assert len(known) <= 5 and all(len(name or "") <= books_module.MAX_NAME for name in known)


def test_what_rows_of_one_plan_have_in_common_is_kept_with_it_told_apart_and_bounded(books, tell):
    kept, others = Memo(), Memo()

    def head(kept, caller=None, **changed):
        story = tell(**({"caller": caller} if caller else {}))
        also(story.tries[0], **changed)
        values = books.held(story, story.tries[0], kept, 1, 2)
        assert Row._make(crashed(values, 900)).caller == story.caller.name and story.tries[0].memo.sort == sort_of(story, story.tries[0])
        return values[0][6:]

    first = head(kept)
    assert first == head(kept) == ("bot", "finance", "premium", "openai", "gpt-4o", "chat", "OPENAI_API_KEY") and kept.others is None
    assert head(others, Caller("ann", "key")) == ("ann", None, None, "openai", "gpt-4o", "chat", "OPENAI_API_KEY")
    assert head(kept, model="gpt-5")[4] == "gpt-5" and head(kept, provider="azure")[3] == "azure" and head(kept, credential=None)[6] is None
    assert head(kept) == first and len(kept.others) == 3
    assert head(kept, model="gpt-5")[4] == "gpt-5" and head(kept, provider="azure")[3] == "azure" and len(kept.others) == 3
    for number in range(50):
        assert head(kept, model=f"m{number}")[4] == f"m{number}"
        assert head(others, model="m " * (200 + number))[4] == "m " * (200 + number)
    assert len(kept.others) == books_module.MAX_KEPT and others.others is None


def test_an_attempt_keeps_what_is_its_own_whatever_other_calls_of_its_plan_attempt_meanwhile(books, tell):
    kept, one, other = Memo(), tell(), tell()
    books.held(one, one.tries[0], kept, 1, 2)
    sort = one.tries[0].memo.sort
    for model in ("gpt-5", "m " * 200):
        other.tries[0].model = model
        books.held(other, other.tries[0], kept, 1, 2)
        assert other.tries[0].memo.sort == sort_of(other, other.tries[0]) != sort == one.tries[0].memo.sort


def test_a_settle_gives_the_true_figures_once(books, store, tell):
    story = tell()
    books.settle(story, story.tries[0])
    books.settle(story, story.tries[0])
    assert store.seen == [("settle", "slu-1/1", 15, 500, story.tries[0].row)]


def test_an_attempt_without_a_hold_is_written_all_the_same(books, store, tell):
    story = tell()
    story.tries[0].is_held = False
    books.settle(story, story.tries[0])
    assert store.seen == [("write", story.tries[0].row)]


def test_what_was_never_sent_gives_its_money_back_and_keeps_its_row(books, store, tell):
    story = tell()
    story.tries[0] = also(copy.copy(story.tries[0]), status=None, usage=Usage(), cost_nanousd=0, end="upstream_cut", error="connect")
    books.settle(story, story.tries[0])
    assert store.seen == [("void", "slu-1/1", story.tries[0].row)]


def test_what_may_have_been_sent_is_settled_at_its_estimate(books, store, tell):
    story = tell()
    story.tries[0] = also(copy.copy(story.tries[0]), status=None, usage=Usage(input=90, source="estimate"), cost_nanousd=900)
    books.settle(story, story.tries[0])
    assert store.named("settle")[0][:3] == ("slu-1/1", 90, 900)


def test_the_overhead_of_all_rows_is_the_overhead_of_the_call(books, tell):
    story = tell()
    first = story.tries[0]
    first.ended, story.upstream_s = 999.0, 0.6
    books.settle(story, first)
    second = also(copy.copy(first), number=2, id="slu-1/2", kind="retry", began=999.1, ended=1000.0, row=None, head=None)
    story.tries.append(second)
    story.upstream_s = 1.5
    books.settle(story, second)
    rows = [Row._make(one.row) for one in story.tries]
    assert [row.overhead_ms for row in rows] == [400.0, 100.0]
    assert rows[1].parent_id == "req-1/1"


def test_a_refusal_before_any_attempt_has_a_row_of_its_own(books, store, told, tell):
    story = tell(tries=[])
    books.refused(story, Refusal(429, "rate_limited"))
    (row,) = store.named("write")[0]
    assert (row.kind, row.attempt, row.id, row.status, row.end) == ("refusal", 0, "slu-1/0", 429, "refused:rate_limited")
    assert (row.cost_nanousd, row.usage_source, row.credential, row.parent_id) == (0, "none", None, None)
    assert (row.duration_ms, row.model) == (2000.0, "gpt-4o")
    assert told.named("refused") == [("rate_limited",)]


def test_a_refusal_by_a_limit_tells_how_full_the_limit_is(books, told, tell):
    books.refused(tell(tries=[]), Refusal(402, "budget_exhausted", limit="tier free", kind="spend", used=0.91))
    books.refused(tell(tries=[]), Refusal(403, "not_allowed"))
    assert told.named("used") == [("tier free", "spend", 0.91)]


def test_an_attempt_whose_hold_was_refused_is_that_refusal(books, store, tell):
    story = tell()
    books.settle(story, story.tries[0])
    story.tries.append(Try(2, "retry", "openai", "gpt-4o", None, "slu-1/2"))
    books.refused(story, Refusal(402, "budget_exhausted"))
    books.close(story)
    (row,) = store.named("write")[0]
    assert (row.kind, row.id, row.parent_id) == ("refusal", "slu-1/2", "req-1/1")
    assert len(store.named("write")) == 1


def test_a_refusal_after_a_settled_attempt_is_the_next_row(books, store, tell):
    story = tell()
    books.settle(story, story.tries[0])
    books.refused(story, Refusal(429, "rate_limited"))
    assert store.named("write")[0][0].id == "slu-1/2"


def test_a_failure_of_the_provider_is_told_by_its_attempts_alone(books, store, told, tell):
    story = tell()
    books.settle(story, story.tries[0])
    books.refused(story, Refusal(502, "upstream_connect"))
    assert store.named("write") == []
    assert told.named("refused") == [("upstream_connect",)]


def test_nobody_has_no_row(books, store, told, tell):
    books.refused(tell(caller=None, tries=[]), Refusal(401, "missing_credentials"))
    assert store.seen == []
    assert told.named("refused") == [("missing_credentials",)]


def test_closing_settles_what_is_left_frees_the_slots_and_tells(books, store, told, tell):
    story = tell()
    never_begun = Try(2, "retry", "openai", "gpt-4o", None, "slu-1/2")
    story.tries.append(never_begun)
    books.close(story)
    assert [entry[0] for entry in store.seen] == ["settle", "leave"]
    assert never_begun.row is None
    assert told.named("told") == [(story,), (story,)]


def test_a_call_that_is_told_at_once_is_not_told_again_and_one_that_was_lost_on_the_way_has_its_line(store, told, clock, tell):
    outcomes = [lambda _: True, lambda _: False, lambda story: story.nothing]
    for usual, times in zip(outcomes, (0, 2, 1), strict=True):
        told.seen.clear()
        Books(store, told, told, clock, usual=usual).close(tell())
        assert len(told.named("told")) == times


def test_an_attempt_that_nobody_settled_has_ended_as_the_call_did(books, store, tell):
    story = tell(end="client_gone")
    books.close(story)
    assert [Row._make(entry[-1]).end for entry in store.named("settle")] == ["client_gone"]


@pytest.mark.parametrize("broken", ["settle", "leave", "told", "event"])
def test_no_failure_of_the_books_reaches_the_call_or_stops_the_rest(books, store, told, tell, broken):
    store.broken, told.broken = {broken, "settle"}, {broken}
    story = tell()
    books.close(story)
    assert store.named("leave") == [("slu-1",)]
    assert len(told.named("told")) == 2
    assert told.named("event")
    assert "secret text" not in repr(told.seen)


def test_hashed_identities_show_in_rows(store, told, clock, tell):
    story = tell()
    Books(store, told, told, clock, lambda name: "id:" + name[::-1]).settle(story, story.tries[0])
    assert Row._make(story.tries[0].row).caller == "id:tob"


def test_who_is_turned_away_before_there_is_a_call_is_counted_and_logged_under_the_id_of_its_reply(books, told, store):
    books.turned_away("wrong_host", "slu-7")
    assert told.seen == [("refused", "wrong_host"), ("event", "info", "turned away")]
    assert store.seen == []
