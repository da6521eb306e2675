"""What tests of the fleet share: patience where nothing is to fail, as machines that test are slow."""

import pytest

from proxy.admit.fleet import link, mode, opening


@pytest.fixture
def patient(monkeypatch):
    """No answer is late: what a call meets is what Redis decided, however busy the machine is."""
    monkeypatch.setattr(link, "MOST_TIMEOUT_S", 20.0)
    monkeypatch.setattr(mode, "SLOW_S", 20.0)
    monkeypatch.setattr(opening, "open_link", lambda address: link.open_link(address, 20.0))
