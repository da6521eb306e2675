"""What is told in one pass is what the metrics and the log tell one after the other, and of other calls nothing is."""

import json

import pytest
from support.also import also

from proxy.exchange import Caller, Try, Usage
from proxy.memo import Memo
from proxy.record import usual as usual_module
from proxy.record.log import MAX_NAME, MAX_SORTS, Log
from proxy.record.metrics import Metrics
from proxy.record.series import MOST_WAITING
from proxy.record.usual import Usual

NAMES = {"openai", "gpt-4o", "bot", "ann", "finance", "premium", "free", "100%d"}


class Told:
    """A log and metrics of their own, and what tells both at once."""

    def __init__(self, clock, known=lambda kind, name: name in NAMES, shown=lambda name: name, level="info"):
        self.lines = []
        self.log = Log(lambda line: self.lines.append(json.loads(line)), clock, level, shown)
        self.metrics = Metrics(known, clock, shown)
        self.usual = Usual(self.metrics, self.log)

    def apart(self, story):
        self.metrics.told(story)
        self.log.told(story)

    def counted(self):
        """Lines as they stand there, but for those of the process."""
        return sorted(line for line in b"".join(self.metrics.exposition()).splitlines() if line.startswith(b"sluice_"))


@pytest.fixture
def plainly(tell):
    """A story whose provider states tokens in and out alone; fields of its try are set by `tried`."""

    def make(tried=(), **changes):
        story = tell(**changes)
        story.tries[0].usage = also(Usage(10, output=5, source="provider"), is_plain=True)
        also(story.tries[0], **dict(tried))
        return story

    return make


def memo(sort):
    return also(Memo(), sort=sort)


def test_what_is_told_at_once_is_what_is_told_one_by_one(clock, tell, plainly):
    stories = [
        plainly(), plainly(caller=Caller("ann", "key", "premium", "finance")), plainly(caller=Caller("bot", "key", "free", "finance")),
        plainly(caller=Caller("bot", "key", "premium", None)), plainly(caller=Caller("a stranger", "key", "premium", "finance")),
        plainly(caller=Caller("", "anonymous")), plainly(operation="other"), plainly(end="client_gone"), plainly(status=500),
        plainly(status=None), plainly(limit="tier free"), plainly(streamed=False), plainly(generation=8), plainly(request_id="req-2"),
        plainly(request_id="sk-proj-abcdefgh12345"), plainly(caller=Caller("100%d", "key", '%s"', "%%")), plainly(upstream_s=9.0),
        plainly({"model": None}), plainly({"model": "new"}), plainly({"provider": "azure"}), plainly({"cost_nanousd": 0}),
        plainly({"first_byte": 998.5}), plainly({"memo": memo("of one plan")}), tell(),
        plainly(found={("email", "request", "masked"): 2, ("iban", "reply", "block"): 1}),
    ]  # fmt: skip
    at_once, apart = Told(clock), Told(clock)
    for story in stories + stories[::-1]:
        assert at_once.usual.told(story)
        apart.apart(story)
        assert at_once.lines == apart.lines
    assert at_once.counted() == apart.counted()


def test_a_call_that_went_otherwise_is_left_to_those_who_tell_at_length(clock, tell, plainly):
    twice = plainly()
    twice.tries.append(Try(2, "retry", "openai", "gpt-4o", None))
    others = [
        twice, plainly(caller=None), tell(tries=[]),
        plainly({"first_byte": None}), plainly({"error": "connect"}), plainly({"is_read_back": True}), plainly({"used": None}),
        plainly({"used": Usage(10, output=5, source="estimate")}), plainly({"cost_nanousd": 2**63}),
    ]  # fmt: skip
    told = Told(clock)
    before = told.counted()
    assert not any([told.usual.told(story) for story in others])
    assert told.lines == [] and told.counted() == before


def test_names_and_levels_are_those_of_the_policy_from_its_reload_on(clock, plainly):
    names, shown = set(NAMES), "bot"
    told = Told(clock, lambda kind, name: name in names, lambda name: shown)
    told.usual.told(plainly())
    names.discard("premium")
    shown = "id:0"
    told.metrics.policy(8)
    told.log.set_level("info")
    told.usual.told(plainly())
    told.log.set_level("warning")
    told.usual.told(plainly())
    assert [line["caller"] for line in told.lines] == ["bot", "id:0"]
    assert {line.split(b"{")[1] for line in told.counted() if line.startswith(b"sluice_requests_total")} == {
        b'caller="bot",end="done",model="gpt-4o",operation="chat",provider="openai",status="200",team="finance",tier="premium"} 1.0',
        b'caller="id:0",end="done",model="gpt-4o",operation="chat",provider="openai",status="200",team="finance",tier="other"} 2.0',
    }


def remembered(plainly, name, kept, **changes):
    """A story of a call with a plan of this caller's, which it keeps things with."""
    return plainly({"memo": also(kept, sort="of one tier")}, caller=Caller(name, "key", "premium", "finance"), **changes)


def test_what_is_kept_with_a_plan_is_that_of_its_caller_and_of_calls_alike(clock, plainly):
    at_once, apart, ann, bot = Told(clock), Told(clock), Memo(), Memo()
    for status, limit in ((200, None), (200, None), (500, None), (200, "tier free"), (200, None), (200, None)):
        for name, kept in (("ann", ann), ("bot", bot), ("bot", bot)):
            assert at_once.usual.told(remembered(plainly, name, kept, status=status, limit=limit))
            apart.apart(remembered(plainly, name, kept, status=status, limit=limit))
            assert at_once.lines == apart.lines
    assert at_once.counted() == apart.counted()
    assert ann.cells is not bot.cells and (ann.name, bot.name) == (b'"ann"', b'"bot"')


def test_what_is_kept_with_a_plan_is_good_until_the_metrics_forget_or_the_log_is_set_anew(clock, plainly):
    names, shown, kept = set(NAMES), "bot", Memo()
    told = Told(clock, lambda kind, name: name in names, lambda name: shown)

    def tell():
        for _ in range(3):
            told.usual.told(remembered(plainly, "bot", kept))

    tell()
    shown = "id:0"
    told.log.set_level("info")
    tell()
    told.metrics.policy(8)
    tell()
    told.log.set_level("warning")
    tell()
    assert [line["caller"] for line in told.lines] == ["bot"] * 3 + ["id:0"] * 6
    counted = [line for line in told.counted() if line.startswith(b"sluice_requests_total")]
    assert [(b'caller="bot"' in line, line.split()[-1]) for line in counted] == [(True, b"6.0"), (False, b"6.0")]


def test_of_a_stranger_nothing_is_kept_as_it_may_become_known(clock, plainly):
    names, kept = NAMES - {"bot"}, Memo()
    told = Told(clock, lambda kind, name: name in names)
    for _ in range(3):
        told.usual.told(remembered(plainly, "bot", kept))
    assert kept.like is None
    names.add("bot")
    told.usual.told(remembered(plainly, "bot", kept))
    counted = [line.split() for line in told.counted() if line.startswith(b"sluice_requests_total")]
    assert [(b'caller="other"' in labels, count) for labels, count in counted] == [(False, b"1.0"), (True, b"3.0")]


def test_a_log_that_says_less_still_counts(clock, plainly):
    told = Told(clock, level="error")
    assert told.usual.told(plainly())
    assert told.lines == [] and any([line.startswith(b"sluice_requests_total{") for line in told.counted()])


def test_what_is_at_hand_of_calls_is_bounded(clock, plainly, monkeypatch):
    told = Told(clock)
    for number in range(MAX_SORTS + 10):
        told.usual.told(plainly({"model": f"m{number}"}))
        assert len(told.usual._likes) <= MAX_SORTS
    told.usual.told(plainly({"model": "m" * (MAX_NAME + 1)}))
    assert not any([len(part) > MAX_NAME + 100 for key in told.usual._likes for part in key if isinstance(part, str)])
    for _ in range(2 * MOST_WAITING):
        story = plainly()
        told.usual.told(story)
        assert len(told.metrics.sort(story, story.tries[0]).durations) < MOST_WAITING
    monkeypatch.setattr(usual_module, "MAX_SORTS", 2)
    for status in range(200, 210):
        told.usual.told(plainly(status=status))
    assert len(told.usual._likes) <= 2


def test_what_the_metrics_have_forgotten_is_not_at_hand_any_more(clock, plainly, monkeypatch):
    monkeypatch.setattr("proxy.record.metrics.MAX_CALLERS", 3)
    told = Told(clock, lambda kind, name: True)
    for number in range(20):
        told.usual.told(plainly(caller=Caller(f"caller-{number}", "key", "premium", "finance")))
        assert sum([len(like[1].callers) for like in told.usual._likes.values()]) <= 3
    assert len([line for line in told.counted() if line.startswith(b"sluice_requests_total")]) == 20
