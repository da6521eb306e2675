"""All that is counted: accounts, open holds and calls under way. Applies and undoes; never decides and never reads a clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from proxy.admit.accounts import Account, Held, Hold, Moment
from proxy.admit.columns import Columns, Windowed, alike, is_past
from proxy.policy.plan import Claim

if TYPE_CHECKING:
    from proxy.admit.lines import Place

OTHERS = "(others)"  # the one account of unbounded identities beyond max_keys


class Charge(NamedTuple):
    """Where something was counted: enough to count it again from the journal, whatever the policy says by then."""

    limit: str
    account: str
    rates: tuple[int, ...]  # window lengths, seconds
    periods: tuple[str, ...]  # period ids


# Of one call under way: since when, the accounts it has slots on, and where its request was counted, if it still is.
Stay = tuple[int, Sequence[Account], "Sequence[Charge] | Place | None"]
NOBODY: OrderedDict[str, Account] = OrderedDict()


class Counters:
    """All accounts by limit name and account name, so that a changed number of a limit applies at once."""

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self.books: dict[str, OrderedDict[str, Account]] = {}
        self.holds: dict[str, Held] = {}
        self.stays: dict[str, Stay] = {}
        self.forgot = 0  # how often any account has (`Account.forgot`): while it stays, all that was found here is as it was
        self.together = Account()  # all that was ever taken of accounts that were named beside others
        self.claims: Sequence[Claim] | None = None  # those that came last, until anything is forgotten
        self.place: Place | None = None  # of these (`lines.Places`)

    def find(self, limit: str, account: str) -> Account | None:
        book = self.books.get(limit)
        return None if book is None else book.get(account)

    def name_of(self, claim: Claim, now: Moment | None = None) -> str:
        """The account a claim is counted on: its own, or that of the others once `max_keys` have one. `now`: as of `account`."""
        if not claim.limit.is_unbounded:
            return claim.account
        book = self.books.get(claim.limit.name)
        if book is None or claim.account in book or len(book) < self.max_keys:
            return claim.account
        if now is not None:
            self._forget_some(book, now)
        return claim.account if len(book) < self.max_keys else OTHERS

    def account(self, limit: str, name: str, now: Moment | None = None) -> Account:
        """Made where there is none; `now`: and then others may be forgotten."""
        book = self.books.get(limit)
        if book is None:
            book = self.books[limit] = OrderedDict()
        account = book.get(name)
        if account is None:
            if now is not None:
                self._forget_some(book, now)
            account = book[name] = Account()
        return account

    def _forget_some(self, book: OrderedDict[str, Account], now: Moment) -> None:
        """Looks at the two accounts least recently looked at: more than one per newcomer, so idle ones do not pile up."""
        for _ in range(min(2, len(book))):
            name = next(iter(book))
            if self._is_idle(book[name], now):
                del book[name]
            else:
                book.move_to_end(name)

    def _is_idle(self, account: Account, now: Moment) -> bool:
        forgot, is_idle = account.forgot, account.is_idle(now)
        if account.forgot != forgot:
            self.forgot += account.forgot - forgot
            self.claims = None
        return is_idle

    def join(self, accounts: Sequence[Account]) -> Account:
        """Where is summed what is taken of these: a lone account has sums of its own; accounts named side by side, one for all such."""
        if len(accounts) == 1:
            return accounts[0].together or accounts[0]
        for account in accounts:
            if account.together is None:
                account.together, account.place = self.together, None
                account.forgot += 1
                self.forgot += 1
                self.claims = None
        return self.together

    # -- calls: requests and slots ------------------------------------------------------------------------------------

    def enter(self, uid: str, charges: Sequence[Charge], at: int, now: Moment) -> None:
        accounts = []
        for charge in charges:
            account = self.account(charge.limit, charge.account, now)
            account.in_flight += 1
            accounts.append(account)
        self.count_requests(charges, at)
        self.stays[uid] = at, accounts, charges

    def count_requests(self, charges: Sequence[Charge], at: int) -> None:
        for charge in charges:
            account = self.account(charge.limit, charge.account)
            (account.together or account).entries += 1
            for period_s in charge.rates:
                account.ring(("requests", period_s)).add(1, at)

    def uncount(self, uid: str) -> tuple[int, Sequence[Charge]] | None:
        """Takes the request of a call under way back, once; its slots stay taken. When and where it was counted; None: nowhere."""
        since, accounts, where = self.stays.get(uid) or (0, (), None)
        if where is None:
            return None
        self.stays[uid] = since, accounts, None
        charges = where if isinstance(where, Sequence) else where.shape.entered(where.names)
        self.uncount_requests(charges, since)
        return since, charges

    def uncount_requests(self, charges: Sequence[Charge], at: int) -> None:
        for charge in charges:
            account = self.account(charge.limit, charge.account)
            for period_s in charge.rates:
                account.ring(("requests", period_s)).adjust(at, -1)

    # -- attempts: tokens and money -----------------------------------------------------------------------------------

    def hold(self, id: str, hold: Hold, now: Moment) -> None:
        charges = hold.charges
        for charge in charges:
            self.account(charge.limit, charge.account, now)
        self.count_tokens(charges, hold.tokens, hold.at)
        self.hold_again(id, hold)

    def hold_on(self, id: str, place: Place, at: int, tokens: int, nanousd: int, intent: bytes) -> None:
        for ring in place.used:  # `Ring.add`, but for the call
            if at >= ring.edge:
                ring.turn(at)
            if at > ring.last:
                ring.last = at
            ring.total += tokens
        for balance in place.balances:
            balance.held += nanousd
        sums = place.sums
        sums.tokens += tokens * place.times
        sums.nanousd += nanousd * place.times
        self.holds[id] = at, tokens, nanousd, place, intent

    def count_tokens(self, charges: Sequence[Charge], tokens: int, at: int) -> None:
        for charge in charges:
            account = self.account(charge.limit, charge.account)
            (account.together or account).tokens += tokens
            for period_s in charge.rates:
                account.ring(("tokens", period_s)).add(tokens, at)

    def hold_again(self, id: str, hold: Hold) -> None:
        """A hold whose tokens are in the windows already."""
        for charge in hold.charges:
            account = self.account(charge.limit, charge.account)
            for period in charge.periods:
                account.balance(period).held += hold.nanousd
                (account.together or account).nanousd += hold.nanousd
        self.holds[id] = hold

    def close(self, id: str, tokens: int, nanousd: int) -> bool:
        """The true figures, in the hold's own bucket and periods. False: no such hold is open."""
        found = self.holds.pop(id, None)
        if found is None:
            return False
        at, had, held, place, _ = found
        more = tokens - had
        if isinstance(place, tuple) or (place.as_of != self.forgot and not place.is_good(self.forgot)):
            hold = Hold._make(found)
            self._give_back(hold)
            self.settle(hold, hold.charges, tokens, nanousd)
            return True
        for balance in place.balances:
            balance.held -= held
            balance.settled += nanousd
        if nanousd > held:
            place.sums.nanousd += (nanousd - held) * place.times
        if more:
            if more > 0:
                place.sums.tokens += more * place.times
            for ring in place.used:
                if at >= ring.begin:
                    ring.total += more
                else:
                    ring.adjust(at, more)
        return True

    def release(self, id: str) -> Hold | None:
        """Nothing is held under this id any more; None: nothing was. Whoever asks settles it, in the same step."""
        found = self.holds.pop(id, None)
        if found is None:
            return None
        hold = Hold._make(found)
        self._give_back(hold)
        return hold

    def _give_back(self, hold: Hold) -> None:
        """Its money, by the names of its accounts."""
        for charge in hold.charges:
            account = self.account(charge.limit, charge.account)
            for period in charge.periods:
                account.balance(period).held -= hold.nanousd

    def settle(self, hold: Hold, charges: Sequence[Charge], tokens: int, nanousd: int) -> None:
        """The true figures of a released hold, on those of its charges that do not have them yet."""
        more = tokens - hold.tokens
        for charge in charges:
            account = self.account(charge.limit, charge.account)
            for period_s in charge.rates:
                account.ring(("tokens", period_s)).adjust(hold.at, more)
            for period in charge.periods:
                account.balance(period).settled += nanousd
                (account.together or account).nanousd += nanousd
            (account.together or account).tokens += max(0, more)

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def accounts(self) -> Iterator[tuple[str, list[str]]]:
        """Limits and the accounts they have at the moment each is asked for: counters may change between two."""
        for limit in list(self.books):
            yield limit, list(dict.__iter__(self.books.get(limit, NOBODY)))  # an OrderedDict's own is forty times as slow
            if not self.books.get(limit, True):
                del self.books[limit]

    def told(self, limit: str, names: Sequence[str], now: Moment) -> list[Columns]:
        """What counts on these accounts. One on which nothing does any more is forgotten, and of another what is past."""
        book = self.books.get(limit, NOBODY)
        found = alike(book, names)
        if any(some.may_be_past(now) for some in found):
            for name in filter(book.__contains__, names):
                if is_past(book[name], now) and self._is_idle(book[name], now):
                    del book[name]
            found = alike(book, names)
        return [some.columns for some in found]

    def restore(self, limit: str, name: str, rings: Sequence[Windowed], spend: Sequence[tuple[str, int]]) -> None:
        account = self.account(limit, name)
        for kind, period_s, buckets in rings:
            account.ring((kind, period_s)).restore(buckets)
        for period, settled in spend:
            account.balance(period).settled = settled

    def no_later_than(self, now_ns: int) -> None:
        for book in self.books.values():
            for account in book.values():
                for ring in account.rings.values():
                    ring.no_later_than(now_ns)

    def contributions(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Limit, account, period id, settled and held (nano-dollars) of all money that is counted here."""
        for limit, book in self.books.items():
            for name, account in book.items():
                for period, balance in account.spend.items():
                    yield limit, name, period, balance.settled, balance.held

    def spent(self, limit: str) -> int:
        """What the accounts of a limit have held and spent, each in its fullest period; nano-dollars."""
        book = self.books.get(limit) or OrderedDict[str, Account]()
        return sum(max((it.settled + it.held for it in account.spend.values()), default=0) for account in book.values())
