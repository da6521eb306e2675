"""The command line: one word picks a command, and only that command's module is imported."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "serve": "run the proxy",
    "check": "say what is wrong with a policy, or what it means",
    "schema": "print the JSON Schema of the policy",
    "keys": "make a Sluice key",
    "usage": "what was used, by caller, model, team or day",
    "demo": "a dozen calls against a fake provider: no key, no network",
    "version": "print the version",
}


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="sluice", description="A transparent, metering, policed reverse proxy in front of LLM providers.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = words[0] if words and words[0] in COMMANDS else None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == named:
            importlib.import_module(f"proxy.cli.{name}").add_arguments(command)
    options = parser.parse_args(words)
    return int(importlib.import_module(f"proxy.cli.{options.command}").run(options))


if __name__ == "__main__":
    sys.exit(main())
