"""Verifies every file of the archive that this is in: ``python FILE.zip``, or ``python FOLDER`` where it is unpacked.

It is an archive's ``__main__.py``, and needs Python alone: the audit is that of the workflow's copy in the run's crate.
"""

import sys
import zipfile
from pathlib import Path

AUDIT = "/crate/workflow/mechdiff/cli.py"

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever is sent an archive may have any
        sys.exit("mechdiff: the audit needs Python 3.11 or later")
    here = Path(__file__).parent
    names = zipfile.ZipFile(here).namelist() if here.is_file() else map(Path.as_posix, here.rglob("cli.py"))
    found = sorted(name for name in names if f"/{name}".endswith(AUDIT))
    if not found:
        sys.exit(f"mechdiff: {here}: no file in it ends in {AUDIT}")
    sys.path.insert(0, str((here / found[0]).parents[1]))
    sys.dont_write_bytecode = True  # a file more would not belong
    from mechdiff.cli import main

    sys.exit(main(["audit", str(here)]))
