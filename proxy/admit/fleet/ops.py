"""What travels between the shared state and its scripts: frozen values and the ways an operation can fail. Does no I/O.

Instants are ns since the epoch and are cut to whole µs on their way; money is nano-dollars, exact up to 2^53.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.admit.accounts import RateKind
from proxy.admit.counters import Charge
from proxy.admit.limits import Denied
from proxy.exchange import value
from proxy.policy.plan import Claim, Spend
from proxy.standings import Standing


@dataclass(frozen=True, slots=True)
class Script:
    """One operation as the server runs it. `sha1` is that of `text`, for EVALSHA."""

    name: str
    text: str
    sha1: str


class Link(Protocol):
    async def call(self, script: Script, keys: Sequence[str], args: Sequence[bytes]) -> Any:
        """The script's reply (integers, bytes, lists). Runs it once or not at all: nothing replays it. Raises Down for every failure."""
        ...


class Down(Exception):
    """The store did not answer, or answered with an error; the operation may have run. `kind`: refused, timeout, readonly, oom …"""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message or kind)
        self.kind = kind


class Lost(Exception):
    """The store forgot what it had acknowledged to this process: rebase. Nothing was taken."""


class Recovering(Exception):
    """The sidecars are telling the store what it lost. Nothing was taken."""


class Gone(Exception):
    """A void, a leave or an expiry came before: this id may not be taken any more. Nothing was taken."""


class Broken(Exception):
    """What the store keeps of an account of this take cannot be read: its text names the keys. Nothing was taken; all others are well."""


class Squeezed(Exception):
    """There is room, but it is told to others as their shares, which they now give back. Nothing was taken: try again."""


# -- taking ----------------------------------------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class Entry:
    """A call that begins: one request and one slot on every claim."""

    uid: str
    claims: tuple[Claim, ...]


@value(frozen=True, slots=True)
class Want:
    """One attempt's tokens and money on every claim."""

    id: str
    claims: tuple[Claim, ...]
    tokens: int
    nanousd: int


@value(frozen=True, slots=True)
class Take:
    """All of it or nothing, in one trip. `now_ns` only chooses which periods are offered: the script picks by its own time.

    Not while anything that was spent without the store is untold there: it would count on the same share a second time.
    """

    entries: tuple[Entry, ...]
    hold: Want | None
    now_ns: int


@value(frozen=True, slots=True)
class Taken:
    """`denied` holds every failing dimension; where it is empty all was taken.

    The standings are those after it: requests and concurrency of each entry, then tokens and spend of the hold.
    """

    at_ns: int  # by the server
    denied: tuple[Denied, ...]
    standings: tuple[Standing, ...]
    entered: tuple[tuple[Charge, ...], ...]  # of each entry, in order: where its request was counted
    held: tuple[Charge, ...]  # of the hold; of an id that is held already, as it was taken then
    live: int  # processes of the fleet


# -- closing: the ordered operations of a batch ------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class Settle:
    """The true figures of a hold: once. Corrects what was charged at the estimate after the holder seemed dead. Unknown: nothing."""

    id: str
    tokens: int
    nanousd: int


@value(frozen=True, slots=True)
class Void:
    """Nothing was sent. An unknown id leaves a tombstone: its late take is Gone."""

    id: str


@value(frozen=True, slots=True)
class Leave:
    """The call's slots are free. An unknown uid leaves a tombstone, too."""

    uid: str


@value(frozen=True, slots=True)
class Uncount:
    """The request of a call under way goes back; its slots stay."""

    uid: str


@value(frozen=True, slots=True)
class Count:
    """`count` requests or tokens of the instant `at_ns`, counted late in the windows of `charges`."""

    kind: RateKind
    at_ns: int
    count: int
    charges: tuple[Charge, ...]


@value(frozen=True, slots=True)
class Adopt:
    """An open hold that the store does not know: its money is held, its tokens are not counted again. Known or gone: nothing."""

    id: str
    at_ns: int
    tokens: int
    nanousd: int
    charges: tuple[Charge, ...]


@value(frozen=True, slots=True)
class Join:
    """An open call that the store does not know: its slots are taken, its request is not counted again. Known or gone: nothing."""

    uid: str
    at_ns: int
    charges: tuple[Charge, ...]


@value(frozen=True, slots=True)
class Rebase:
    """All that this process has settled there, as of this place in the queue: raises what the store knows of it, never lowers.

    Ends the state of being Lost. Goes last, after every close that it includes; one for each account and period.
    """

    limit: str
    account: str
    period: str
    nanousd: int


@value(frozen=True, slots=True)
class Rebased:
    """The end of the rebases: from here on what this process was told counts as known again."""


Op = Settle | Void | Leave | Uncount | Count | Adopt | Join | Rebase | Rebased


@value(frozen=True, slots=True)
class Watch:
    """A spend account whose share is wanted (or, with `is_wanted` False, given back).

    `left`: the most this process could still spend of its share should the reply to this batch never come; the server keeps so
    much aside until a later batch says less. So a share that shrinks is free for others one batch later: confirm it soon.
    0 where it has none.
    """

    claim: Claim
    spend: Spend
    left: int
    is_wanted: bool = True


@value(frozen=True, slots=True)
class Batch:
    """`seq` is one more than that of the batch before, which has been acknowledged. Sent again as it was, watches included, until
    it is acknowledged, too."""

    seq: int
    ops: tuple[Op, ...]
    watch: tuple[Watch, ...]
    now_ns: int  # as in Take


@value(frozen=True, slots=True)
class Share:
    """What this process may spend in `period` on top of all it holds and has settled there, without asking.

    From the moment the batch was made (not sent once more) every hold of this process counts against it: in full, also after its
    settle, and also one whose reply never came.
    """

    period: str
    nanousd: int


@value(frozen=True, slots=True)
class Pulse:
    seq: int
    at_ns: int  # by the server
    live: int
    is_lost: bool  # rebase: see Lost
    is_recovering: bool
    shares: tuple[Share, ...]  # one for each watch, in order
    expired: str = ""  # an instance without a heartbeat, some of whose holds (charged at the estimate) and slots went back now
    freed: str = ""  # an instance whose shares were in doubt for an hour, and are free now


@value(frozen=True, slots=True)
class Found:
    """What a process left open before its restart."""

    id: str
    at_ns: int
    tokens: int
    nanousd: int


@value(frozen=True, slots=True)
class Resumed:
    seq: int  # of the last batch; the next is one more
    holds: tuple[Found, ...]  # open: settle or void each
    charged: tuple[Found, ...]  # taken for dead and charged at the estimate: settle those that cost something else
    calls: tuple[str, ...]  # uids that hold slots: leave each
