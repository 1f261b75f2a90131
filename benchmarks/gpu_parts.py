"""The parts of ``gpu.sh``: what each measures. A row is printed as soon as it is known.

Without CUDA every part is a rehearsal: the same code at small size on the CPU, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pandas as pd
import torch
import yaml
from gpu import ROOT, ROW
from plain import plain_patcher, sample, scores
from setting import (
    MEMORY,
    PRODUCTS,
    RESULTS,
    SEVEN_BILLION,
    Shape,
    four_passes,
    machine,
    peak_rate,
    random_examples,
    random_model,
    seconds,
)
from seven_billion import Scale, Work, circuit_steps, counted, discovery_steps, timed

from mechdiff.circuits import LOGITS, Circuit, Position
from mechdiff.engine.examples import clean_examples, noise_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import count_correct, model_correct
from mechdiff.experiments.minimality import minimality
from mechdiff.experiments.path_patching import change_table, relative_changes
from mechdiff.experiments.ranking import Step, receiver_heads, score_table, select_candidates
from mechdiff.models.checkpoints import Checkpoint, read_tokenizer
from mechdiff.models.loading import open_model
from mechdiff.models.patchable import PatchableModel, patchable
from mechdiff.tasks.boxes.dataset import build_split
from mechdiff.tasks.boxes.task import BoxTask, read_objects

SCORES = 1e-4  # by which the mini family's path-patching scores may differ between devices
COUNTS = (4, 16, 50, 100, 300, 500)
SHIPPED = ROOT / "resources" / "models"


@dataclass(frozen=True)
class Size:
    """How much is measured. counts: examples, one after the other until time is out; few: of the comparisons; rows: of
    the mini family's splits; products: whose rate is the peak; tests: what pytest is asked for."""

    device: str
    shape: Shape
    dtype: torch.dtype
    counts: tuple[int, ...]
    few: int
    rows: int
    scale: Scale
    products: tuple[tuple[int, int, int], ...]
    tests: tuple[str, ...]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


GPU = Size("cuda", SEVEN_BILLION, torch.bfloat16, COUNTS, 8, 100, Scale(), PRODUCTS, ("-m", "gpu"))
SMALL = Shape(6, 6, 48, 96, 200)
QUICK = ("-m", "not gpu", "-k", "test_the_engine_is_the_plain_way and cpu and llama")
REHEARSAL = Size("cpu", SMALL, torch.bfloat16, (2, 4), 2, 8, Scale(4, 4, (4, 2, 3), (18,)), ((64, 64, 64),), QUICK)
SIZE = GPU if torch.cuda.is_available() else REHEARSAL


def emit(table: str, **row: object) -> None:
    """One measurement, for the record."""
    print(ROW + json.dumps({"table": table} | row), flush=True)


@dataclass(frozen=True)
class Deadline:
    """When a part has to be done [seconds since 1970]."""

    at: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.at - time.time()

    def allows(self, expected: float) -> bool:
        """Whether something that takes so many seconds can still be done, with some to spare."""
        return 1.2 * expected + 3 < self.left


def on_machine(deadline: Deadline) -> None:
    """What this is measured on, and how fast its matrix products are."""
    if not SIZE.on_gpu:
        print("No CUDA here: THIS IS A REHEARSAL on the CPU at small size. Its numbers are no record.", flush=True)
    found = machine(SIZE.device, SIZE.dtype) | {"rehearsal": not SIZE.on_gpu, "model": str(SIZE.shape)}
    found |= {"budget [bytes]": MEMORY, "deterministic algorithms": False}
    if SIZE.on_gpu:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "driver": subprocess.run(asked, capture_output=True, text=True).stdout.strip().split("\n")[0],
            "cuda": torch.version.cuda,
            "memory [GB]": properties.total_memory / 1e9,
            "compute capability": f"{properties.major}.{properties.minor}",
        }
    for name, dtype, products in (
        ("bfloat16", torch.bfloat16, "highest"),
        ("tf32", torch.float32, "high"),
        ("float32", torch.float32, "highest"),
    ):
        torch.set_float32_matmul_precision(products)
        found[f"peak {name} [FLOP/s]"] = peak_rate(SIZE.device, dtype, SIZE.products)
    emit("machine", **found)


def tests(deadline: Deadline) -> None:
    """pytest on the device; each test's outcome, and what it measured."""
    import pytest

    class Rows:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                row = {"test": report.nodeid.removeprefix("tests/engine/"), "outcome": report.outcome}
                emit("tests", **row, **dict(report.user_properties))

    torch.set_grad_enabled(True)
    chosen = ["tests/engine", "--override-ini", "addopts=--strict-markers", "-p", "no:cacheprovider", "-v"]
    if code := pytest.main([*chosen, *SIZE.tests], plugins=[Rows()]):
        sys.exit(int(code))


def family(deadline: Deadline) -> None:
    """The shipped base and its adapter, from discovery to accuracies: on the device as on the CPU."""
    plan = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["plan"]
    for step in plan:
        step.setdefault("exclude", [])
    base = SHIPPED / "mini-llama"
    task, rows = BoxTask(read_tokenizer(base), 7, read_objects(ROOT / "config" / "objects.txt")), SIZE.rows
    splits = ("discovery", "minimality", "evaluation", "means")
    tables = {split: build_split(task, split, dict.fromkeys(splits, rows), 20, "disjoint") for split in splits}
    opened = {device: Checkpoint("mini-llama", base, device=device) for device in dict.fromkeys((SIZE.device, "cpu"))}
    goat = {
        d: Checkpoint("mini-goat", SHIPPED / "mini-goat", base=c, adapter=True, device=d) for d, c in opened.items()
    }
    for checkpoints in (opened, goat):
        found, took = {}, {}
        for device, checkpoint in checkpoints.items():
            started = time.perf_counter()
            found[device] = experiments(checkpoint, plan, tables)
            took[f"{device} [s]"] = time.perf_counter() - started
        here, there = found[SIZE.device], found["cpu"]
        off = max((score - there.scores[group]).abs().max() for group, score in here.scores.items())
        same = (here.circuit, here.accuracy, here.of_circuit) == (there.circuit, there.accuracy, there.of_circuit)
        row = {"model": checkpoint.name, "examples": rows, "same circuit, accuracies": same, "scores differ by": off}
        row |= {"heads": len(here.circuit), "accuracy": here.accuracy, "of the circuit": here.of_circuit}
        emit("family", **row, **took)
        assert same and off <= SCORES, f"{checkpoint.name} is another model on {SIZE.device}: {here} and {there}"


@dataclass(frozen=True)
class Found:
    """A model's circuit, the scores of all heads by group, its accuracy and the circuit's."""

    circuit: Circuit
    scores: dict[str, pd.Series]
    accuracy: float
    of_circuit: float


def experiments(checkpoint: Checkpoint, plan: list[dict], tables: dict) -> Found:
    """What the workflow does for one model and its own circuit, without its records."""
    model = open_model(checkpoint)
    runs = {split: Run(model, clean_examples(table), MEMORY) for split, table in tables.items()}
    noise, means = Run(model, noise_examples(tables["discovery"]), MEMORY), runs["means"].mean_outputs()
    found: dict = {}
    for step in plan:
        of = next((other for other in plan if other["group"] == step["receiver"]), None)
        into = None if step["receiver"] == LOGITS else receiver_heads(found[of["group"]], of["receivers"])
        changes = relative_changes(runs["discovery"], noise, Position(step["position"]), into, step.get("via"))
        found[step["group"]] = score_table(checkpoint.name, step["group"], change_table(changes))
    candidates = select_candidates([Step.from_config(step, len(model.heads)) for step in plan], found)
    counts: dict[Circuit, int] = {}
    _, _, circuit = minimality(
        candidates,
        lambda group, circuits: count_correct(runs["minimality"], means, circuits, counts),
        len(runs["minimality"].examples),
        fraction=0.3,
        threshold=0.01,
    )
    run = runs["evaluation"]
    right = count_correct(run, means, [circuit], {})[circuit] / len(run.examples)
    of_heads = {group: table["score"] for group, table in found.items()}
    return Found(circuit, of_heads, model_correct(run).mean().item(), right)


def flop_counts() -> dict[str, float]:
    """FLOPs of one example in each step: at seven billion from the record of that count, else counted here."""
    if SIZE.shape == SEVEN_BILLION:
        rows = json.loads((RESULTS / "seven_billion_cpu.json").read_text())["seven_billion"]
    else:
        rows = counted(SIZE.shape, Scale(7, 1, SIZE.scale.receivers, SIZE.scale.circuits), SIZE.scale)
    return {row["step"]: row["PFLOP for all"] * 1e15 / row["for all, examples"] for row in rows}


def growing(
    table: str,
    works: Callable[[PatchableModel, Scale], Iterable[Work]],
    whole: int,
    deadline: Deadline,
) -> PatchableModel:
    """Time work with more and more examples, as long as the next count can be expected to be done in time.

    whole: how many examples the paper has.
    """
    model, flop = random_model(SIZE.shape, SIZE.device, SIZE.dtype), flop_counts()
    peak, spent = peak_rate(SIZE.device, SIZE.dtype, SIZE.products), {}  # step -> seconds an example
    for count in (SIZE.counts[0], *(n for n in SIZE.counts if n <= whole)):
        for work in works(model, replace(SIZE.scale, discovery=count, evaluation=count)):
            if not deadline.allows(spent.get(work.step, 0) * count):
                continue
            row = timed(work)
            if work.step in spent:  # the first time is to be warm
                each, needed = row["seconds"] / count, flop[work.step]
                row |= {"rows/s": work.edits / each, "s/example": each, "PFLOP": needed * count / 1e15}
                row |= {"of peak": needed / each / peak, f"for {whole} [s]": each * whole}
                if SIZE.on_gpu:
                    row["of budget"] = row["peak beyond weights [GB]"] * 1e9 / MEMORY
                emit(table, **row)
            spent[work.step] = row["seconds"] / count
    return model


def discovery(deadline: Deadline) -> None:
    """The four passes; and the plain way, whole forward passes, on a few senders of each."""
    model = growing("discovery", discovery_steps, GPU.scale.discovery, Deadline(time.time() + 0.8 * deadline.left))
    clean, noise = (random_examples(SIZE.few, model.weight.shape[0], seed) for seed in (1, 2))
    for step in four_passes(model, SIZE.scale.receivers):
        if not deadline.allows(5):
            break
        senders, (run, source) = step.senders(model), (Run(model, each, MEMORY) for each in (clean, noise))
        patch, _ = plain_patcher(model, clean, noise, step)
        tried = sample(senders, 3)
        patch(tried[0])
        plain = seconds(lambda patch=patch, tried=tried: [patch(head) for head in tried]) / len(tried)
        ours = seconds(lambda s=(run, source, step, senders): scores(*s)) / len(senders)
        row = {"pass": step.group, "n": SIZE.few, "plain [s/sender]": plain, "engine with captures [s/sender]": ours}
        emit("the plain way", **row, **{"times": plain / ours})


def circuits(deadline: Deadline) -> None:
    """Table 1's evaluation and minimality."""
    growing("circuits", circuit_steps, GPU.scale.evaluation, deadline)


def precision(deadline: Deadline) -> None:
    """How far bfloat16's and TF32's scores are from float32's: of the strongest heads, the largest difference, and
    whether the order of all is the same."""
    model = random_model(SIZE.shape, SIZE.device, SIZE.dtype)
    exact = patchable("exact", copy.deepcopy(model.network).float())
    took = 0.0
    for step in four_passes(model, SIZE.scale.receivers):
        found = {}
        for name, each, products in (
            ("float32", exact, "highest"),
            ("tf32", exact, "high"),
            ("bfloat16", model, "high"),
        ):
            if not deadline.allows(2 * took):
                return
            torch.set_float32_matmul_precision(products)
            run, noise = (Run(each, random_examples(SIZE.few, SIZE.shape.vocabulary, seed), MEMORY) for seed in (1, 2))
            started = time.perf_counter()
            found[name] = scores(run, noise, step, step.senders(each)).cpu()
            took = time.perf_counter() - started
        wanted = found.pop("float32")
        strongest = wanted.abs().argsort(descending=True)[:100]
        for name, given in found.items():
            row = {"pass": step.group, "numbers": name, "n": SIZE.few, "strongest": wanted[strongest[0]].item()}
            row |= {"100 strongest off by": (wanted - given)[strongest].abs().max().item()}
            row |= {"rank correlation": pd.Series(wanted).rank().corr(pd.Series(given).rank())}
            emit("precision", **row)


PARTS = {"machine": on_machine, "tests": tests, "family": family, "discovery": discovery, "circuits": circuits}
PARTS |= {"precision": precision}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--until", type=float, required=True, help="when it will be stopped [seconds since 1970]")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    PARTS[options.part](Deadline(options.until))


if __name__ == "__main__":
    main()
