"""The ``mechdiff`` command."""

from __future__ import annotations

import argparse
import sys

from mechdiff.audit import audit
from mechdiff.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mechdiff", description="What did fine-tuning change inside the model?")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("audit", help="verify every file behind a run's tables against its record")
    command.add_argument("folder", help="a run's folder, or one above it: results/")
    command.set_defaults(run=_audit)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (InputError, OSError) as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        return 1
    return 0


def _audit(options: argparse.Namespace) -> None:
    for run, found in audit(options.folder).items():
        print(f"{run}: {found.files} files of {found.jobs} jobs match their records; digest {found.digest}")
