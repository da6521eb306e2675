from __future__ import annotations

from pathlib import Path

import pytest
from needs import debian_tools


@pytest.fixture(scope="session")
def tools() -> dict[str, Path]:
    """promtool and prometheus."""
    names = ("promtool", "prometheus")
    found = debian_tools("prometheus", *names)
    if found is None:
        pytest.skip("SKIPPED LOUDLY: needs the Debian package prometheus, which could not be had here (tests/needs.py)")
    return dict(zip(names, found, strict=True))
