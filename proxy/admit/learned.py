"""How many tokens the calls of a model took, against their bound, learned from settled ones. Never makes less of money than its bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from math import ceil, log2
from typing import Any

from proxy.exchange import Usage

MODELS = 128  # remembered; their names come from outside. What was forgotten starts again at the safe end
CLASSES = 24  # kinds and sizes of the calls of one model
ENOUGH = 10  # calls of one kind and size from which on they are believed
RECENT = 512  # calls after which older ones count half, again and again
EACH = 7  # and from then on one call in so many is looked at, and stands for as many: a prime, so that a loop of calls shows all its turns
ABOVE_PCT = 5  # above the 95th percentile
SIZE_BITS = 2  # sizes within a factor of four are alike: the smaller a body, the more of it is JSON and not text
STEPS = 16  # buckets to a doubling: each is 4.4 % wide, and its upper edge is what is told
OFTEN = 256  # lessons between two times that they are kept
TIER_CHARS = 32  # of a service tier's name
FLOOR = 1 / 16  # of the bound. Whoever pads his calls makes others be held for no less than a token in 16 bytes

Name = tuple[str, str]  # provider, model


class Spread:
    """How often values fell into each bucket of a logarithmic scale. Old ones fade. No more than 5 in 100 were above `quantile`.

    Of RECENT values on, every EACH-th is counted EACH times: sums, and with them the quantile and how fast old ones fade, stay those of
    all calls but for the noise of a sample of 73 to 146, and a quantile that guards rates (money is held for its bound) can bear that.
    Of one kind and size of call it is `proxy.lessons.Like`: of tokens taken, as a share of the bound.
    """

    __slots__ = ("_above", "_at", "counts", "quantile", "share", "skips", "total")

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = dict(counts or {})
        self.total = sum(self.counts.values())
        self.skips = 0  # so many values that come next are not looked at
        self._find()

    def add(self, value: float) -> None:
        if self.skips:
            self.skips -= 1
            return
        bucket = ceil(STEPS * log2(value if value > 1e-6 else 1e-6))
        counts, each = self.counts, 1
        if self.total >= RECENT:
            each, self.skips = EACH, EACH - 1
        counts[bucket] = counts.get(bucket, 0) + each
        self.total = total = self.total + each
        if bucket > self._at:
            self._above += each
        if total >= 2 * RECENT:
            self.counts = {at: count // 2 for at, count in counts.items() if count > 1}
            self.total = sum(self.counts.values())
            self._find()
        elif total <= ENOUGH or not self._above <= total * ABOVE_PCT // 100 < self._above + counts.get(self._at, 0):
            self._find()

    def tokens(self, sent: int) -> int:
        """Of a call that brings at most `sent` tokens."""
        return ceil(sent * self.share)

    def _find(self) -> None:
        """Where the quantile has moved."""
        most, above = self.total * ABOVE_PCT // 100, 0
        self._at = self._above = 0  # the bucket of the quantile, and how many were above it
        for at in sorted(self.counts, reverse=True):
            self._at, self._above = at, above
            above += self.counts[at]
            if above > most:
                break
        self.quantile = float(2.0 ** (self._at / STEPS))
        self.share = 1.0 if self.total < ENOUGH else max(self.quantile, FLOOR)  # of the bound: a token a byte until enough were settled


UNSEEN = Spread()  # nothing is ever added to it


class Model:
    """What is known of one model: `proxy.lessons.Known`."""

    __slots__ = ("inputs", "is_forgotten", "outputs", "tier")

    def __init__(
        self, inputs: Mapping[tuple[int, int], Spread] | None = None, outputs: Spread | None = None, tier: str | None = None
    ) -> None:
        self.inputs = dict(inputs or {})  # by kind of call and size
        self.is_forgotten = False
        self.outputs = outputs or Spread()  # tokens of one answer, where the call named no most
        self.tier = tier  # of service, as the last reply stated it whose call named none: a default of the provider's account

    def like(self, kind: int, sent: int) -> Spread:
        """Of calls like one that brings at most `sent` tokens."""
        return self.inputs.get((kind, sent.bit_length() // SIZE_BITS), UNSEEN)

    def output_tokens(self, default: int, most: int | None) -> int:
        """Of one answer whose call names no most: `default` until enough were settled; never above `most`, the model's own."""
        told = default if self.outputs.total < ENOUGH else ceil(self.outputs.quantile)
        return told if most is None else min(told, most)


UNKNOWN = Model()  # nor to it
UNKNOWN.is_forgotten = True


class Learned:
    """All models, the last learned from last."""

    def __init__(self) -> None:
        self._models: OrderedDict[Name, Model] = OrderedDict()
        self._fresh = 0  # lessons since they were last kept

    def of(self, name: Name) -> Model:
        """Until it `is_forgotten`: what is seen later is another's."""
        return self._models.get(name, UNKNOWN)

    def saw(self, name: Name, kind: int, sent: int, usage: Usage, answers: int | None, is_tierless: bool = False) -> None:
        """A call was settled by its provider's own figures. `sent`: above 0; `answers`: of a whole answer whose call named no most, how
        many; `is_tierless`: it had named no service tier, and got what the account has."""
        model = self._models.get(name) or self._new(name)
        if is_tierless and usage.tier != model.tier:
            model.tier = usage.tier[:TIER_CHARS] if usage.tier else None
        if usage.input > 0:
            spread = model.like(kind, sent)
            if spread is not UNSEEN:
                spread.add(usage.input / sent)
            elif len(model.inputs) < CLASSES:
                spread = model.inputs[kind, sent.bit_length() // SIZE_BITS] = Spread()
                spread.add(usage.input / sent)
        if answers and usage.output > 0:
            model.outputs.add(usage.output / answers)
        self._models.move_to_end(name)
        self._fresh += 1
        if self._fresh >= OFTEN:
            self._fresh = 0
            self._written()

    def _new(self, name: Name) -> Model:
        models = self._models
        model = models[name] = Model()
        if len(models) > MODELS:
            models.popitem(last=False)[1].is_forgotten = True
        return model

    def _written(self) -> None:
        """OFTEN lessons later: whoever keeps them does so now."""

    def as_json(self) -> list[object]:
        """For the state; `from_json` reads it back."""
        return [
            [
                *name,
                [[kind, size, list(spread.counts.items())] for (kind, size), spread in model.inputs.items()],
                list(model.outputs.counts.items()),
                model.tier,
            ]
            for name, model in self._models.items()
        ]

    @classmethod
    def from_json(cls, stored: Any) -> Learned:
        """Raises ValueError or TypeError for what `as_json` did not make."""
        learned = cls()
        for provider, model, inputs, outputs, tier in stored[-MODELS:]:
            spreads = {(int(kind), int(size)): _spread(counts) for kind, size, counts in inputs[:CLASSES]}
            learned._models[str(provider), str(model)] = Model(spreads, _spread(outputs), None if tier is None else str(tier)[:TIER_CHARS])
        return learned


def _spread(stored: Any) -> Spread:
    counts = {int(bucket): int(count) for bucket, count in stored}
    if any(count < 1 for count in counts.values()) or any(abs(bucket) > 64 * STEPS for bucket in counts):
        raise ValueError("no counts")
    return Spread(counts)
