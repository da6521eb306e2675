"""`sluice schema` prints what is committed."""

from __future__ import annotations

from support.sluice import ROOT


def test_the_schema_is_the_committed_one(sluice):
    done = sluice("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "config" / "policy.schema.json").read_text()
