"""The program as a whole: its words, its exit codes, what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.sluice import ROOT

from proxy import __version__


def test_version_prints_the_version(sluice):
    done = sluice("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"sluice {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [(), ("nope",), ("check",), ("check", "a", "b"), ("keys",), ("keys", "new"), ("usage", "--by", "shoe-size"), ("version", "--loud")],
)
def test_wrong_use_is_one_line_with_the_way_out_and_exit_code_1(sluice, words):
    done = sluice(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sluice: ") and done.stderr.count("\n") == 1 and "--help" in done.stderr


def test_help_lists_every_command(sluice):
    done = sluice("--help")
    assert done.returncode == 0
    for command in ("serve", "check", "schema", "keys", "usage", "demo", "version"):
        assert f"    {command} " in done.stdout


def test_a_reader_that_leaves_early_gets_no_traceback(alone):
    line = f"{sys.executable} -m proxy schema | head -c 10"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=alone, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ('{\n  "$defs', "")


def test_serve_loads_nothing_of_the_other_commands(alone):
    code = (
        "import sys, proxy.cli.serve, proxy.app\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'rich' or name.startswith('proxy.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone, cwd=ROOT, timeout=60, check=True)
    assert done.stdout == "['proxy.cli.serve']\n"
