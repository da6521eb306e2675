"""docs/reference.md says what the code says, all of it."""

from __future__ import annotations

import re

from support.sluice import ROOT

from proxy.cli.reference import reference
from proxy.codes import CODES
from proxy.exchange import Row
from proxy.policy.schema import schema
from proxy.record.figures import documented


def test_the_committed_page_is_the_generated_one():
    assert (ROOT / "docs" / "reference.md").read_text() == reference(), "run `make docs`"


def test_every_reply_header_of_ours_in_the_code_is_on_the_page():
    sources = "\n".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py") if "cli" not in path.parts)
    found = set(re.findall(r'(x-sluice-[a-z-]*[a-z])(?=[":])', sources))
    assert {"x-sluice-error", "x-sluice-guard"} <= found
    page = reference()
    assert [name for name in sorted(found) if f"`{name}`" not in page] == []


def test_every_environment_variable_of_the_commands_is_on_the_page():
    sources = "\n".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py") if path.name != "reference_words.py")
    found = set(re.findall(r"\bSLUICE_[A-Z_]*[A-Z]\b", sources))
    assert {"SLUICE_POLICY", "SLUICE_ADMIN_TOKEN"} <= found
    page = reference()
    assert [name for name in sorted(found) if f"| `{name}` |" not in page] == []


def test_every_key_code_metric_and_field_has_its_line():
    page = reference()
    found = schema()
    keys = {key for part in (found, *found["$defs"].values()) for key in part["properties"]}
    names = keys | set(CODES) | {name for name, *_ in documented()} | set(Row._fields) - {"id"}
    assert [name for name in sorted(names) if f"| `{name}` |" not in page] == []
    assert re.findall(r"\| *\|", page) == []


def test_what_is_not_built_yet_says_so_and_what_is_built_does_not():
    lines = {line.split("` |")[0].removeprefix("| `"): line for line in reference().splitlines() if line.startswith("| `")}
    for key in ("include", "hedge", "shadow", "otlp", "secrets"):
        assert "**Not supported yet**" in lines[key]
    for key in ("tiers", "retry", "pii", "status", "timeouts", "time_zone", "state", "durability"):
        assert "Not supported" not in lines[key]
