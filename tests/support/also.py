"""What a test says of a value beside what it is made with. Checks no name."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def also(one: T, **known: object) -> T:
    """The same object, with these set."""
    for name, value in known.items():
        setattr(one, name, value)
    return one
