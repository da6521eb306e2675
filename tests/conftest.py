"""What is part of every run: the lists that the contract tests print stand in its summary."""


def pytest_terminal_summary(terminalreporter):
    """The exceptions to transparency, and the recordings not counted with their reasons, are a result and not a detail."""
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.nodeid.startswith("tests/contract/") and report.capstdout:
            terminalreporter.section(report.nodeid.removeprefix("tests/contract/"), sep="-")
            terminalreporter.write(report.capstdout)
