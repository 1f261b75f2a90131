"""The ``mechdiff`` command."""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
from pathlib import Path

from mechdiff.common.errors import InputError
from mechdiff.common.text import plain
from mechdiff.provenance.archive import archive, audit_archive
from mechdiff.provenance.audit import Audit, audit


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of a pipe may leave early
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name can be no text
    try:
        options.run(options)
    except (InputError, OSError) as error:
        print(f"mechdiff: {plain(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mechdiff", description="What did fine-tuning change inside the model?")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("audit", help="verify every file of a run against its record")
    command.add_argument("folder", help="a run's folder, one above it (results/), or an archive")
    command.set_defaults(run=_audit)
    command = commands.add_parser("explain", help="where one cell of a table comes from, down to dataset and weights")
    command.add_argument("table", help="a table of a run: results/<run>/tables/table_1.csv")
    command.add_argument("--row", required=True, help="mini-goat, or circuit_of=mini-llama,model=mini-goat")
    command.add_argument("--column", required=True, help="faithfulness")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_explain)
    command = commands.add_parser("diff", help="what differs between two runs: config, code, weights, numbers")
    command.add_argument("a", help="a run's folder")
    command.add_argument("b", help="another's")
    command.set_defaults(run=_diff)
    command = commands.add_parser("archive", help="pack a run into one file that audits by itself")
    command.add_argument("folder", help="a run's folder: results/<run>")
    command.add_argument("file", help="the archive to write: out.zip")
    command.set_defaults(run=_archive)
    return parser


def _audit(options: argparse.Namespace) -> None:
    runs = audit_archive(options.folder) if Path(options.folder).is_file() else audit(options.folder)
    for run, found in runs.items():
        print(plain(f"{run}: {found.files} files of {found.jobs} jobs match their records; digest {found.digest}"))
        _print_outside(found)


def _explain(options: argparse.Namespace) -> None:
    from mechdiff.provenance.explain import explain  # pandas, which an audit need not wait for
    from mechdiff.provenance.explanation import explanation_text

    found = explain(options.table, options.row, options.column)
    print(json.dumps(found, indent=2) if options.json else explanation_text(found))


def _diff(options: argparse.Namespace) -> None:
    from mechdiff.provenance.diff import diff_text  # pandas, as above

    print(diff_text(options.a, options.b))


def _archive(options: argparse.Namespace) -> None:
    found = archive(options.folder, options.file)
    print(f"{options.file}: {found.files} files of {found.jobs} jobs; digest {found.digest}")
    _print_outside(found)


def _print_outside(found: Audit) -> None:
    if found.outside:
        print(f"outside the archive, known by sha256 alone: {len(found.outside)} files")
    for file in found.outside:
        print(plain(f"  {file['path']}  {file['sha256']}  {file['bytes']} bytes"))
