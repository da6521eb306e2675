"""Alerts: each share of a money limit once per account and period, also after a restart; a webhook that fails delays nothing."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest
from support.provider import Provider

from proxy.policy.plan import Alerts as Rules
from proxy.policy.plan import Claim, Limit, Spend
from proxy.record.alerts import MAX_ACCOUNTS, Alerts
from proxy.record.webhook import MAX_WAITING, Webhook
from proxy.standings import Standing

NANO = 1_000_000_000
A_DAY = (Spend(10 * NANO, "day"),)
URL = "https://hooks.example/T0/SECRET"
END = 1_790_035_200  # the end of the clock's day


@dataclass
class Book:
    """As much of a rulebook as alerts ask for."""

    alerts: Rules | None = field(default_factory=lambda: Rules((0.8, 1.0), URL))
    identities: str = "plain"


class Ear:
    """What was counted, logged and posted."""

    def __init__(self) -> None:
        self.counted, self.lines, self.posts, self.outcomes = [], [], [], []

    def alerted(self, limit, share):
        self.counted.append((limit, share))

    def alert_post(self, outcome):
        self.outcomes.append(outcome)

    def event(self, level, event, **fields):
        self.lines.append({"level": level, "event": event, **fields})

    def post(self, url, doc):
        self.posts.append((url, doc))


def claim(name="tier free", account="caller=ann", spend=A_DAY, **more) -> Claim:
    return Claim(Limit(name, ("caller",), spend=spend, **more), account)


def at(used: float, name="tier free", allowed=10 * NANO, end=END, window=86400) -> Standing:
    return Standing(name, "spend", allowed, allowed - round(used * NANO), end, window)


@pytest.fixture
def ear():
    return Ear()


@pytest.fixture
def alerts(ear, clock, tmp_path):
    """Rules and more → the alerts of a process; each call is a restart."""

    def make(rules=None, book=None):
        book = book or Book(*([rules] if rules else []))
        return Alerts(lambda: book, ear.post, ear, ear, clock, tmp_path, "host-a")

    return make


def test_each_share_is_told_once_in_log_metric_and_post(alerts, ear):
    one = alerts()
    for used in (1, 7.99, 8, 9, 8.5, 7, 9.5, 10, 10):
        one.saw([claim()], [at(used)])
    assert ear.counted == [("tier free", "80%"), ("tier free", "100%")]
    line = ear.lines[0]
    assert (line["level"], line["event"], line["limit"], line["account"], line["share"]) == (
        "warning",
        "alert",
        "tier free",
        "caller=ann",
        "80%",
    )
    url, doc = ear.posts[0]
    assert url == URL
    assert doc == {
        "id": doc["id"], "limit": "tier free", "account": "caller=ann", "share": "80%", "period": "day", "used_usd": "8.00",
        "allowed_usd": "10.00", "resets_at": "2026-09-22T00:00:00+00:00", "instance": "host-a", "at": "2026-09-21T14:13:20+00:00",
        "text": "Sluice: limit tier free (caller=ann) has used $8.00, 80% of $10.00 per day until 2026-09-22T00:00:00+00:00",
    }  # fmt: skip
    assert ear.posts[1][1]["id"] != doc["id"]


def test_one_call_may_cross_several_shares(alerts, ear):
    alerts().saw([claim()], [at(10)])
    assert [share for _, share in ear.counted] == ["80%", "100%"]


def test_shares_are_exact_at_large_amounts(alerts, ear):
    allowed = 10**14 + 1
    one = alerts(Rules((1.0,)))
    one.saw([claim()], [Standing("tier free", "spend", allowed, 1, END, 86400)])
    assert not ear.counted
    one.saw([claim()], [Standing("tier free", "spend", allowed, 0, END, 86400)])
    assert ear.counted


def test_a_refusal_for_want_of_money_is_the_whole_share(alerts, ear):
    """A call that does not fit any more may find the last cents unspent for ever."""
    one = alerts()
    one.saw([claim(), claim("team x")], [at(9.99), at(2, "team x")], exhausted="tier free")
    assert ear.counted == [("tier free", "80%"), ("tier free", "100%")]


def test_of_two_periods_the_one_that_is_used_up_is_meant(alerts, ear):
    both = (Spend(10 * NANO, "day"), Spend(100 * NANO, "month"))
    alerts().saw([claim(spend=both)], [at(9.9), at(20, allowed=100 * NANO, end=END + 1, window=2_592_000)], exhausted="tier free")
    assert {doc["period"] for _, doc in ear.posts} == {"day"}


def test_a_restart_tells_nothing_again_and_a_new_period_does(alerts, ear, clock):
    alerts().saw([claim()], [at(8)])
    alerts().saw([claim()], [at(8.5)])
    assert len(ear.posts) == 1
    clock.at_ns += 86400 * NANO
    again = alerts()
    again.saw([claim()], [at(8, end=END + 86400)])
    assert len(ear.posts) == 2


def test_what_is_kept_of_past_periods_goes_and_a_total_stays(alerts, ear, clock, tmp_path):
    total = claim(spend=(Spend(10 * NANO, "total"),))
    one = alerts()
    one.saw([claim(), claim("team x")], [at(8), at(8, "team x")])
    one.saw([total], [at(8, end=0, window=0)])
    file = tmp_path / "alerts.jsonl"
    assert len(file.read_text().splitlines()) == 3 and file.stat().st_mode & 0o777 == 0o600
    clock.at_ns += 86400 * NANO
    again = alerts()
    assert len(file.read_text().splitlines()) == 1 and file.stat().st_mode & 0o777 == 0o600
    ear.posts.clear()
    again.saw([total], [at(9, end=0, window=0)])
    assert not ear.posts


def test_a_torn_line_and_a_folder_that_cannot_be_written_are_survived(alerts, ear, tmp_path):
    (tmp_path / "alerts.jsonl").write_bytes(b'["tier free","caller=ann","day",1790035200,1000')
    alerts().saw([claim()], [at(8)])
    assert len(ear.posts) == 1
    (tmp_path / "alerts.jsonl").unlink()
    (tmp_path / "alerts.jsonl").mkdir()
    alerts().saw([claim()], [at(8)])
    assert len(ear.posts) == 2
    assert [line["error"] for line in ear.lines if line["event"] == "alert not kept"] == ["IsADirectoryError"]


def test_a_limit_that_was_changed_is_another_one(alerts, ear):
    one = alerts()
    one.saw([claim()], [at(8)])
    one.saw([claim(spend=(Spend(20 * NANO, "day"),))], [at(9, allowed=20 * NANO)])
    one.saw([claim(spend=(Spend(20 * NANO, "day"),))], [at(16, allowed=20 * NANO)])
    assert [doc["allowed_usd"] for _, doc in ear.posts] == ["10.00", "20.00"]


def test_a_reload_applies_and_does_not_repeat(alerts, ear):
    book = Book()
    one = alerts(book=book)
    one.saw([claim()], [at(8)])
    book.alerts = Rules((0.5, 0.8, 0.9), None)
    one.saw([claim()], [at(9)])
    assert [share for _, share in ear.counted] == ["80%", "50%", "90%"]
    assert len(ear.posts) == 1, "no webhook any more"
    book.alerts = None
    one.saw([claim()], [at(10)])
    assert len(ear.counted) == 3


def test_accounts_are_not_named_where_identities_are_hashed(alerts, ear):
    alerts(book=Book(identities="hashed")).saw([claim()], [at(8)])
    assert ear.posts[0][1]["account"] is None and ear.lines[0]["account"] is None
    assert "ann" not in json.dumps(ear.posts)


def test_of_unbounded_identities_one_speaks_for_all(alerts, ear):
    one = alerts()
    for number in range(100):
        one.saw([claim("limit ip", f"ip=10.0.0.{number}", is_unbounded=True)], [at(8, "limit ip")])
    assert len(ear.posts) == 1 and ear.posts[0][1]["account"] is None


def test_what_is_remembered_is_bounded(alerts, ear, clock):
    one = alerts()
    for number in range(MAX_ACCOUNTS + 50):
        one.saw([claim(account=f"caller={number}")], [at(0.1)])
    assert len(one._next) <= MAX_ACCOUNTS + 1
    one.saw([claim(account="caller=late")], [at(9)])
    assert ear.posts[-1][1]["account"] is None
    clock.at_ns += 86400 * NANO
    one.saw([claim(account="caller=later")], [at(9, end=END + 86400)])
    assert ear.posts[-1][1]["account"] == "caller=later" and len(one._next) == 1


def test_names_that_json_cannot_hold_are_told_all_the_same(alerts, ear):
    alerts().saw([claim(account="caller=\ud800é")], [at(8)])
    assert json.loads(json.dumps(ear.posts[0][1]))["account"] == "caller=\\ud800é"


# -- the webhook ---------------------------------------------------------------------------------------------------------


async def until(holds) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_post_is_tried_again_after_a_server_error_and_arrives_whole(ear):
    statuses = iter((503, 429, 204))

    async def script(seen, reply):
        await reply.whole(next(statuses), b"")

    async with Provider(script) as there:
        hook = Webhook(ear, ear, backoff_s=0.001)
        hook.post(there.url + "/x", {"a": 1})
        await until(lambda: ear.outcomes)
        await hook.close()
    assert ear.outcomes == ["sent"] and not ear.lines
    assert [(seen.method, seen.target, seen.json, seen.header("content-type")) for seen in there.seen] == [
        ("POST", "/x", {"a": 1}, "application/json")
    ] * 3


@pytest.mark.parametrize("status", [302, 400, 401, 404])
async def test_what_will_not_help_is_not_repeated_and_no_redirect_is_followed(ear, status):
    async def script(seen, reply):
        await reply.whole(status, b"", headers=[("location", "/elsewhere")])

    async with Provider(script) as there:
        hook = Webhook(ear, ear, backoff_s=0.001)
        hook.post(there.url + "/SECRET", {})
        await until(lambda: ear.outcomes)
        await hook.close()
    assert ear.outcomes == ["failed"] and len(there.seen) == 1
    assert ear.lines == [{"level": "warning", "event": "alert not posted", "outcome": "failed", "why": f"answered {status}"}]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/SECRET", "http://", "ftp://SECRET/", "SECRET"])
async def test_a_url_that_leads_nowhere_is_a_metric_and_one_line_that_does_not_say_it(ear, url):
    hook = Webhook(ear, ear, backoff_s=0.001)
    hook.post(url, {})
    await until(lambda: ear.outcomes)
    await hook.close()
    assert ear.outcomes == ["failed"] and len(ear.lines) == 1 and "SECRET" not in str(ear.lines)


async def test_what_waits_is_bounded_and_the_end_of_the_process_drops_the_rest(ear):
    never = asyncio.Event()

    async def script(seen, reply):
        await never.wait()

    async with Provider(script) as there:
        hook = Webhook(ear, ear)
        for number in range(MAX_WAITING + 5):
            hook.post(there.url, {"n": number})
        assert ear.outcomes == ["dropped"] * 5
        await until(lambda: there.seen)
        await hook.close()
    assert ear.outcomes == ["dropped"] * (MAX_WAITING + 5)
