"""What was learned of models, as those ask for it who hold money and rates: a port of its own. Knows nothing itself."""

from __future__ import annotations

from typing import Protocol

from proxy.exchange import Usage


class Like(Protocol):
    """What calls of one model took of their bound that are of one kind and about one size."""

    skips: int  # so many of those that come next need teach nothing: enough is known, and the next one stands for them
    share: float  # of its bound that a call is likely to bring; 1.0 until enough were seen

    def tokens(self, sent: int) -> int:
        """So many of a call that brings at most `sent`."""
        ...


class Known(Protocol):
    """What calls of one model took of their bound. `kind`, `sent`: of the bound."""

    @property
    def is_forgotten(self) -> bool:
        """What is seen from now on is told to another: ask again."""
        ...

    @property
    def tier(self) -> str | None:
        """The service tier that a call gets which names none; None until a reply has told."""
        ...

    def like(self, kind: int, sent: int) -> Like: ...

    def output_tokens(self, default: int, most: int | None) -> int:
        """What an answer is likely to take where the call names no most; `default` until enough were seen."""
        ...


class Lessons(Protocol):
    """The same of all models, kept in the state. `name`: provider and model."""

    def of(self, name: tuple[str, str]) -> Known: ...
    def saw(self, name: tuple[str, str], kind: int, sent: int, usage: Usage, answers: int | None, is_tierless: bool) -> None:
        """The provider's own figures of a call. `answers`: how many, of a whole reply whose call named no most; else None.
        `is_tierless`: it named no service tier, so that the reply tells the one that such calls get."""
        ...
