"""What is part of every run: no example of a property has a time to keep, as machines are busy; what the contract tests and the counts
of the hot path print stands in the summary."""

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TELLING = ("tests/contract/", "tests/shape/test_hotpath.py")


def pytest_terminal_summary(terminalreporter):
    """The exceptions to transparency, the recordings not counted with their reasons, a baseline to renew: results, not details."""
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.nodeid.startswith(TELLING) and report.capstdout:
            terminalreporter.section(report.nodeid.removeprefix("tests/").removeprefix("contract/"), sep="-")
            terminalreporter.write(report.capstdout)
