"""The command line: one word picks a command, and only that command's module is imported."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

from proxy.cli import COMMANDS


class Parser(argparse.ArgumentParser):
    """Wrong use is one line and exit code 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"sluice: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="sluice", description="A transparent, metering, policed reverse proxy in front of LLM providers.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = words[0] if words and words[0] in COMMANDS else None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == named:
            importlib.import_module(f"proxy.cli.{name}").add_arguments(command)
    options = parser.parse_args(words)
    try:
        code = int(importlib.import_module(f"proxy.cli.{options.command}").run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # `sluice schema | head`: nobody reads on, and the flush at exit must not say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
