"""How the engine's time and memory grow with layers, heads, examples and the length of the prompt.

One thing at a time around a base point; each of the four passes of discovery over all senders, captures counted. Memory
is the most bytes of tensors alive at once beyond the weights, under the budget. Makes a table and a plot.
"""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from setting import (
    MEMORY,
    PROMPT,
    RESULTS,
    Shape,
    four_passes,
    machine,
    options,
    random_examples,
    random_model,
    report,
    seconds,
)

from mechdiff.engine.memory import peak_bytes
from mechdiff.engine.run import Run

BASE = Shape(layers=6, heads=8, width=256, intermediate=1024, vocabulary=8000)
STYLES = {"A": ("o", "-"), "B": ("s", "--"), "C": ("^", "-."), "D": ("D", ":")}


def points(examples: int) -> list[tuple[str, int, Shape, int, int]]:
    """(what varies, its value, shape, examples, tokens)."""
    found = [("layers", n, replace(BASE, layers=n), examples, PROMPT) for n in (3, 6, 12, 24)]
    # Heads of 32 dimensions, so that the width grows with their number.
    found += [
        ("heads", n, replace(BASE, heads=n, width=32 * n, intermediate=128 * n), examples, PROMPT) for n in (4, 8, 16)
    ]
    found += [("examples", n, BASE, n, PROMPT) for n in (examples // 4, examples, 4 * examples)]
    found += [("prompt tokens", n, BASE, examples, n) for n in (24, PROMPT, 108, 216)]
    return found


def measured(shape: Shape, examples: int, tokens: int) -> dict[str, tuple[float, int]]:
    """Seconds and peak bytes of each pass."""
    model = random_model(shape)
    clean, noise = (Run(model, random_examples(examples, shape.vocabulary, s, tokens), MEMORY) for s in (1, 2))
    found = {}
    for step in four_passes(model):
        edits = step.edits(step.senders(model))
        took = min(seconds(lambda edits=edits: clean.evaluate(edits, noise)) for _ in range(2))
        found[step.group] = (took, peak_bytes(lambda edits=edits: clean.evaluate(edits, noise)))
    return found


def plot(rows: list[dict]) -> None:
    """Time above, memory below, one column for each thing that varies."""
    varied = list(dict.fromkeys(row["varies"] for row in rows))
    figure, axes = plt.subplots(2, len(varied), figsize=(11, 5.2), sharey="row", layout="constrained")
    for column, what in enumerate(varied):
        own = [row for row in rows if row["varies"] == what]
        for group, (marker, line) in STYLES.items():
            for axis, unit in zip(axes[:, column], ("s", "MB"), strict=True):
                axis.loglog(
                    [row["value"] for row in own], [row[f"{group} [{unit}]"] for row in own],
                    marker=marker, linestyle=line, label=group, markersize=4,
                )  # fmt: skip
        for axis in axes[:, column]:
            axis.set_xticks([row["value"] for row in own], [str(row["value"]) for row in own], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel(what)
    axes[0, 0].set_ylabel("time [s]")
    axes[1, 0].set_ylabel("memory beyond weights [MB]")
    axes[0, 0].legend(title="group", fontsize=8)
    for form in ("svg", "png"):
        figure.savefig(RESULTS / f"scaling.{form}", dpi=150)


def main() -> None:
    o = options(__doc__.splitlines()[0], examples=16)
    plt.style.use("tableau-colorblind10")
    rows = []
    for what, value, shape, examples, tokens in points(o.examples):
        row: dict = {"varies": what, "value": value}
        for group, (took, held) in measured(shape, examples, tokens).items():
            row |= {f"{group} [s]": took, f"{group} [MB]": held / 1e6}
        rows.append(row)
    settings = machine("cpu", torch.float32) | {"base": str(BASE), "examples": o.examples, "tokens": PROMPT}
    report("scaling", "How time and memory grow", settings, rows)
    plot(rows)


if __name__ == "__main__":
    main()
