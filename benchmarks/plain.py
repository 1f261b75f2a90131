"""The engine against the project's own plain way, and what each needs of the machine.

For each of the four passes of discovery, on the same weights and prompts, in one process and in turn:

- engine: all senders that can reach a receiver, in one call.
- plain: one whole forward pass with hooks for each sender and pass (two passes for B, C and D), last-token logits only,
  measured for a few senders, low, middle and high, which all cost the same, and multiplied.

Both need the clean and the noise run captured first. ``ratio`` leaves that out on both sides: the engine's captures are
timed as a call that is chunked alike and patches nothing (A: one with the highest sender), and subtracted.
``ratio with captures`` counts them on both sides.

FLOPs are counted by torch, on the meta device; the peak is the fastest matrix product of several sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from setting import (
    MEMORY,
    Pass,
    Shape,
    flops,
    four_passes,
    in_turn,
    machine,
    options,
    peak_rate,
    random_examples,
    random_model,
    report,
    seconds,
)

from mechdiff.circuits import Head
from mechdiff.engine import plain as reference
from mechdiff.engine.examples import Examples
from mechdiff.engine.run import Run
from mechdiff.models.patchable import PatchableModel


def sample(senders: list[Head], count: int) -> list[Head]:
    """So many of the senders, from the lowest to the highest layer."""
    return [senders[round(i * (len(senders) - 1) / max(1, count - 1))] for i in range(count)]


def plain_patcher(model: PatchableModel, clean: Examples, noise: Examples, step: Pass) -> tuple[Callable, float]:
    """What path-patches one sender in the plain way, both runs captured: log-probabilities; and seconds to capture."""
    kept = []
    captured = seconds(lambda: kept.extend(reference.everything(model, each.input_ids) for each in (clean, noise)))
    (outputs, logits), (source, _) = kept

    def patch(sender: Head) -> torch.Tensor:
        edit = step.edits([sender])[0]
        found = reference.logits_edited(model, clean, noise, edit, outputs, source, logits)
        return found.double().log_softmax(-1).gather(1, clean.answers[:, None].to(found.device))[:, 0]

    return patch, captured


def counted(shape: Shape, clean: Examples, noise: Examples, step: Pass, senders: list[Head]) -> tuple[int, int]:
    """FLOPs of the engine's call for all senders, and of its captures, on a model without numbers."""
    model = random_model(shape, "meta")
    run, source = Run(model, clean, MEMORY), Run(model, noise, MEMORY)
    groups = (senders, unreaching(step, senders))
    whole, captures = (flops(lambda e=e: run.evaluate(step.edits(e), source)) for e in groups)
    return whole, captures


def measured(model: PatchableModel, shape: Shape, clean: Examples, noise: Examples, step: Pass, options) -> dict:
    """One row of the table."""
    run, source = Run(model, clean, MEMORY), Run(model, noise, MEMORY)
    senders = step.senders(model)
    tried = sample(senders, options.senders)
    patch, plain_capture = plain_patcher(model, clean, noise, step)
    found: dict[Head, torch.Tensor] = {}
    times = in_turn(
        {
            "engine": lambda: found.update(zip(senders, scores(run, source, step, senders), strict=True)),
            "captures": lambda: scores(run, source, step, unreaching(step, senders)),
            "plain": lambda: [patch(head) for head in tried],
        },
        options.rounds,
    )
    _, logits = reference.everything(model, clean.input_ids)
    original = logits.double().log_softmax(-1).gather(1, clean.answers[:, None])[:, 0]
    difference = max((torch.expm1(patch(h) - original).mean() - found[h]).abs().item() for h in tried)
    plain = times["plain"] / len(tried) * len(senders)
    alone = times["engine"] - times["captures"]
    all_flops, capture_flops = counted(shape, clean, noise, step, senders)
    whole = flops(lambda: reference.last_logits(model, clean.input_ids))
    plain_flops = whole * len(senders) * (1 if step.receivers is None else 2)
    return {
        "pass": step.group,
        "senders": len(senders),
        "engine [s]": times["engine"],
        "of it captures [s]": times["captures"],
        "plain [s]": plain,
        "ratio": plain / alone,
        "ratio with captures": (plain + plain_capture) / times["engine"],
        "FLOP ratio": plain_flops / (all_flops - capture_flops),
        "FLOP ratio with captures": (plain_flops + 2 * whole) / all_flops,
        "largest score difference": difference,
        "engine [FLOP/s]": all_flops / times["engine"],
        "plain [FLOP/s]": plain_flops / plain,
    }


def unreaching(step: Pass, senders: list[Head]) -> list[Head]:
    """As many senders, so that chunks are alike, that reach no receiver; for A, which has none, the highest one."""
    if step.receivers is None:
        return senders[-1:]
    return [Head(max(head.layer for head in step.receivers), 0)] * len(senders)


def scores(run: Run, noise: Run, step: Pass, senders: list[Head]) -> torch.Tensor:
    """Scores [senders] on the engine."""
    base, patched = run.evaluate(step.edits(senders), noise)
    return torch.expm1(patched.log_probability - base.log_probability).mean(1)


def main() -> None:
    o = options(__doc__.splitlines()[0], examples=32, senders=3, rounds=3)
    shape = Shape()
    model = random_model(shape)
    clean, noise = (random_examples(o.examples, shape.vocabulary, seed) for seed in (1, 2))
    peak = peak_rate("cpu", torch.float32)
    seconds(lambda: reference.last_logits(model, clean.input_ids))  # warm
    rows = []
    for step in four_passes(model):
        row = measured(model, shape, clean, noise, step, o)
        row |= {"engine / peak": row["engine [FLOP/s]"] / peak, "plain / peak": row["plain [FLOP/s]"] / peak}
        rows.append(row)
    receivers = {step.group: [str(head) for head in step.receivers or ()] for step in four_passes(model)}
    settings = machine("cpu", torch.float32) | {
        "model": str(shape),
        "examples": o.examples,
        "tokens": clean.input_ids.shape[1],
        "peak [FLOP/s]": peak,
        "plain senders timed": o.senders,
        "rounds": o.rounds,
        "receivers": receivers,
    }
    report("plain", "Path patching: the engine against whole forward passes with hooks", settings, rows)


if __name__ == "__main__":
    main()
