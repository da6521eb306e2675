"""Tells of calls that went as most do, in one pass: counts each and writes its line, as `Metrics` and `Log` would. Tells of no others."""

from __future__ import annotations

from proxy.exchange import Story, Try, sort_of
from proxy.memo import Memo
from proxy.record.cells import Cells, Sort
from proxy.record.log import MAX_NAME, MAX_SORTS, MOST, Log, shown_found, shown_id
from proxy.record.metrics import Metrics
from proxy.record.series import MOST_WAITING, Spread

Key = tuple[object, ...]  # what all of them but their callers and figures have in common follows from
Like = tuple[bytes | None, Sort, Spread, Spread, Spread]


class Usual:
    """Of one attempt, which has answered and of which the provider states what it used."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics, self._log = metrics, log
        self._instant, self._names, self._write = log.instant, log.callers, log.write
        self._likes: dict[Key, Like] = {}
        metrics.on_forget = log.on_forget = self._likes.clear

    def told(self, story: Story) -> bool:
        """False: it went otherwise, and nothing of it is told."""
        tries, caller = story.tries, story.caller
        if len(tries) != 1 or caller is None:
            return False
        one = tries[0]
        usage, first_byte, paid = one.used, one.first_byte, one.cost_nanousd
        if usage is None or first_byte is None or one.error is not None or one.is_read_back:
            return False
        if not usage.is_plain and usage.source != "provider":
            return False
        asked, said = usage.input, usage.output
        if asked + said + paid > MOST:
            return False
        memo = one.memo
        key = sort_of(story, one) if memo is None else memo.sort, story.end, story.status, story.limit, story.streamed
        like = self._likes.get(key) or self._like(key, story, one)
        form, sort, durations, overheads, waits = like
        if memo is not None and memo.like is like:
            cells, name = memo.cells, memo.name
        else:
            cells, name = self._own(memo, like, caller.name)
        call, ended, upstream_s, found = story.call, story.ended, story.upstream_s, story.found
        began = call.began
        duration = ended - began
        first_byte -= began
        durations.append(duration)
        overheads.append(duration - upstream_s)
        waits.append(first_byte)
        if len(durations) >= MOST_WAITING:
            sort.sort_in()
        usual = cells.usual
        if usual is None or not usage.is_plain:
            (cells.requests or cells.of("requests"))[0] += 1
            cells.count(usage, paid, is_read_back=False)
        else:
            requests, cost, input, output = usual
            requests[0] += 1
            cost[0] += paid
            input[0] += asked
            output[0] += said
        if found:
            self._metrics.found(found)
        if form is not None:
            instant, write = self._instant, self._write
            write(
                form
                % (
                    instant.text if ended < instant.until else instant.turn(ended),
                    shown_id(call.id) if call.id_is_callers else call.id.encode(),
                    name,
                    asked,
                    said,
                    paid,
                    shown_found(found) if found else b"{}",
                    duration * 1e3,
                    first_byte * 1e3,
                    upstream_s * 1e3,
                )
            )
        return True

    def _own(self, memo: Memo | None, like: Like, caller: str) -> tuple[Cells, bytes]:
        """Where a caller is counted and how its name shows; kept only of those who are at hand, as a stranger may become known."""
        form, sort, *_ = like
        name = b"" if form is None else self._names.get(caller) or self._log.caller(caller)
        cells = sort.callers.get(caller)
        if cells is None:
            return self._metrics.cells(sort, caller), name
        if memo is not None:
            memo.like, memo.cells, memo.name = like, cells, name
        return cells, name

    def _like(self, key: Key, story: Story, one: Try) -> Like:
        form, sort = self._log.form_of(story, one, "provider"), self._metrics.sort(story, one)
        like = form, sort, sort.durations, sort.overheads, sort.waits()
        if len(self._likes) >= MAX_SORTS:
            self._likes.clear()
        if len(one.model or "") <= MAX_NAME:
            self._likes[key] = like
        return like
