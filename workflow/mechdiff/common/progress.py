"""Progress that a person can follow: what is being done, rows done, time left.

On a terminal a bar; otherwise nothing but one line a minute, so that logs stay readable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60


class _Lines:
    """A stream for tqdm that turns each redraw into a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n ") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[tqdm]:
    """A bar over ``total`` units; ``bar.update(n)``, and ``bar.set_postfix_str(text)`` for where it stands."""
    shown = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        leave=False,
        dynamic_ncols=shown,
        file=sys.stderr if shown else _Lines(),
        mininterval=0.2 if shown else SECONDS_BETWEEN_LINES,
        maxinterval=10 if shown else SECONDS_BETWEEN_LINES,
        miniters=1,
        delay=0 if shown else SECONDS_BETWEEN_LINES,
        ascii=not shown,
    )
    try:
        yield bar
    finally:
        bar.close()
