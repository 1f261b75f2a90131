"""The engine on the CPU, on a pretended GPU, and with ``-m gpu`` on a real one: right numbers wherever it runs.

Tolerances are of logits, log-probabilities and path-patching scores. What was found is kept with each test's report.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file

from families import HEADS, LAYERS, tiny
from mechdiff.circuits import Head
from mechdiff.engine.edits import Block, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.run import Run
from mechdiff.experiments.model_check import capture_difference, null_patch_differences, zero_patch_differences
from mechdiff.models.patchable import PatchableModel, patchable
from pretended import DEVICE, NAME, move
from random_runs import LAST, OBJECT, ON_GPU, PREVIOUS, QUERY, Setting, prompts, setting

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as jobs do; read when CUDA is first used
gpu = pytest.mark.gpu
CUDA = pytest.param("cuda", marks=gpu)
MEMORY = 10**9
INTO = (Head(1, 0), Head(2, 3))
STEPS = {
    "A": (LAST, None, None),
    "B": (LAST, INTO, Part.QUERY),
    "C": (QUERY, INTO, Part.VALUE),
    "D": (PREVIOUS, INTO, Part.VALUE),
}
TF32 = 5e-3  # of scores
BFLOAT16_COSINE, BFLOAT16_SCORE, BFLOAT16_LOGIT = 0.98, 0.15, 0.06  # score: of the largest; on the CPU 4 to 9 % are met


def on(device: str, family: str = "llama-3", dtype: torch.dtype = torch.float32, spread: float = 0.15) -> Setting:
    """Random prompts, noise and means for a tiny random model of a family."""
    model = patchable(family, move(tiny(family, spread=spread).to(dtype), device))
    means = 0.3 * torch.randn(LAYERS, 14, HEADS, model.head_dim, generator=torch.Generator().manual_seed(3))
    return Setting(model, prompts(4, 14, 1), prompts(4, 14, 2), means)


def of_every_kind(s: Setting) -> dict:
    """Name -> edits and their source."""
    heads, nodes = s.model.heads, {(Head(0, 1), PREVIOUS), (Head(1, 2), QUERY), (Head(2, 0), LAST), (Head(2, 3), LAST)}
    asked = {step: ([PathPatch(head, *where) for head in heads], s.noise) for step, where in STEPS.items()}
    asked["circuits"] = [Keep(frozenset(nodes - {node})) for node in sorted(nodes)], s.means
    asked["outputs"] = [Replace(frozenset({(head, QUERY)})) for head in heads], s.noise
    inputs = frozenset({Part.QUERY, Part.KEY, Part.VALUE})
    asked["inputs"] = [Replace(frozenset({(head, QUERY)}), inputs) for head in heads], s.examples
    asked["knockout"] = [Block(LAST, OBJECT, layer) for layer in range(LAYERS)], None
    asked["masks"] = (
        [Mix(QUERY, (Head(0, 1), Head(1, 3)), torch.tensor(own)) for own in ([0.2, 0.7], [0.0, 1.0])],
        s.noise,
    )
    return asked


def outcomes(s: Setting, memory: int = MEMORY) -> dict[str, torch.Tensor]:
    """Answers' logits after edits of every kind, the mean outputs, and the gradients of masks."""
    run, found = Run(s.model, s.examples, memory), {}
    for kind, (edits, source) in of_every_kind(s).items():
        taken = replace(run, examples=source) if kind != "circuits" and source is not None else source
        found[kind] = run.evaluate(edits, taken)[1].logit
    found["means"] = run.mean_outputs()
    if NAME not in s.model.device_types:  # torch's autograd has threads for real devices alone
        own = torch.tensor([0.5, 0.2], requires_grad=True)
        mask = Mix(QUERY, (Head(0, 1), Head(1, 3)), own)
        run.evaluate([mask], replace(run, examples=s.noise))[1].logit.sum().backward()
        found["gradients"] = own.grad
    return found


def scores(s: Setting, step: str) -> torch.Tensor:
    run = Run(s.model, s.examples, MEMORY)
    edits = [PathPatch(head, *STEPS[step]) for head in s.model.heads]
    base, patched = run.evaluate(edits, replace(run, examples=s.noise))
    return torch.expm1(patched.log_probability - base.log_probability).mean(1)


@pytest.mark.parametrize("family", ["llama-3", "falcon-grouped"])
def test_the_engine_is_the_plain_way(device, family, record_property):
    s = on(device, family)
    assert s.model.device == torch.device(device) or device == "cuda"
    for kind, (edits, source) in of_every_kind(s).items():
        record_property(kind, s.check(edits, source))


def test_everything_is_what_it_is_on_the_cpu_and_comes_home(device, tmp_path, record_property):
    wanted = outcomes(on("cpu"))
    for kind, found in outcomes(on(device)).items():
        assert found.device.type == "cpu"
        record_property(kind, (found - wanted[kind]).abs().max().item())
        torch.testing.assert_close(found, wanted[kind], atol=ON_GPU, rtol=0)
        save_file({kind: found}, tmp_path / "saved.safetensors")
        assert torch.equal(load_file(tmp_path / "saved.safetensors")[kind], found)


@pytest.mark.parametrize("real", ["cpu", CUDA])
def test_as_little_as_fits_at_a_time_changes_nothing(real):
    whole, pieces = outcomes(on(real)), outcomes(on(real), memory=700_000)
    for kind, found in pieces.items():
        torch.testing.assert_close(found, whole[kind], atol=ON_GPU, rtol=0)


@pytest.mark.parametrize("real", ["cpu", CUDA])
def test_two_runs_give_the_same_bytes(real):
    """As jobs run: with algorithms that have no deterministic form refused."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = outcomes(on(real)), outcomes(on(real))
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(torch.equal(first[kind], second[kind]) for kind in first)


@pytest.mark.parametrize("step", ["A", "D"])
def test_bfloat16_gives_float32s_scores_to_its_own_precision(device, step, record_property):
    exact, rough = (scores(on(device, dtype=dtype, spread=0.3), step) for dtype in (torch.float32, torch.bfloat16))
    cosine = torch.cosine_similarity(rough, exact, dim=0).item()
    record_property("cosine", cosine)
    off = ((rough - exact).abs().max() / exact.abs().max()).item()
    record_property("of the largest score", off)
    assert cosine > BFLOAT16_COSINE and off < BFLOAT16_SCORE


def test_bfloat16_passes_the_checks_of_a_model_and_ablates_as_float32_does(device, record_property):
    exact, rough = (on(device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    run = Run(rough.model, rough.examples, MEMORY)
    null, zero = null_patch_differences(run), zero_patch_differences(run)
    edits, source = of_every_kind(exact)["circuits"]
    logits = [Run(s.model, s.examples, MEMORY).evaluate(edits, source)[1].logit for s in (exact, rough)]
    off = {"captured": capture_difference(run), "null patch": max(null)}
    off["circuits"] = (logits[0] - logits[1]).abs().max().item()
    for name, difference in off.items():
        record_property(name, difference)
    assert max(off.values()) <= BFLOAT16_LOGIT and all(a < b for a, b in zip(null, zero, strict=True))


@pytest.mark.parametrize(("family", "dtype"), [("llama-3", torch.bfloat16), ("gptj", torch.float32)])
def test_a_model_spread_over_the_cpu_and_a_device(device, family, dtype):
    """Embeddings and one layer on the one, the other layers on the other."""
    body, layers = {"llama-3": ("model", "layers"), "gptj": ("transformer", "h")}[family]
    whole = on("cpu", family, dtype)
    wanted, tolerance = outcomes(whole), ON_GPU if dtype is torch.float32 else BFLOAT16_LOGIT
    # With embeddings on a GPU, weights that wait on the CPU are brought there by accelerate, which no pretending takes.
    for here, there in [("cpu", device), ("cuda", "cpu")][: 2 if device == "cuda" else 1]:
        network = tiny(family).to(dtype)
        others = [f"{body}.{name}" for name, _ in getattr(network, body).named_children() if name != layers]
        places = dict.fromkeys([*others, "lm_head"], here)
        places |= {f"{body}.{layers}.{i}": here if i == 1 else there for i in range(LAYERS)}
        spread = dispatch_model(network, places, main_device=here, offload_buffers=True, force_hooks=True)
        for kind, found in outcomes(replace(whole, model=patchable("spread", spread))).items():
            torch.testing.assert_close(found, wanted[kind], atol=tolerance, rtol=0)


@gpu
@pytest.mark.parametrize("step", STEPS)
def test_tf32_gives_the_scores_to_its_own_precision(step, record_property):
    expected, before = scores(on("cpu"), step), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        off = (scores(on("cuda"), step) - expected).abs().max().item()
    finally:
        torch.set_float32_matmul_precision(before)
    record_property("largest difference", off)
    assert off <= TF32


@gpu
@pytest.mark.parametrize("memory", [3_000_000, 30_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_budget_is_kept_by_what_cuda_allocates(memory, dtype, record_property):
    """Beyond the weights, and what its libraries take once for themselves (cuBLAS: 32 MiB)."""
    s = setting(layers=4, heads=8, values=8, head_dim=16, n=40, tokens=54, seed=0)
    model = patchable("micro", s.model.network.to("cuda", dtype))
    few = slice(2)
    outcomes(Setting(model, s.examples.take(few), s.noise.take(few), s.means), MEMORY)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held(model, s, memory)
    taken = torch.cuda.max_memory_allocated() - before
    record_property("of the budget", taken / memory)
    assert taken <= memory


def held(model: PatchableModel, s: Setting, memory: int) -> None:
    run, noise = Run(model, s.examples, memory), Run(model, s.noise, memory)
    run.evaluate([PathPatch(head, LAST) for head in model.heads], noise)
    run.evaluate([PathPatch(head, PREVIOUS, (Head(1, 1), Head(3, 0)), Part.VALUE) for head in model.heads], noise)
    run.evaluate([Keep(frozenset({(head, LAST), (Head(0, 0), QUERY)})) for head in model.heads], s.means)
    run.evaluate([Replace(frozenset({(head, QUERY)}), frozenset({Part.VALUE})) for head in model.heads], run)
    run.mean_outputs()


def test_a_mistake_about_devices_is_seen_on_the_pretended_one():
    """Else the tests above would show nothing where there is no GPU."""
    from pretended import pretending

    with pretending():
        x = torch.ones(3).to(DEVICE)
        assert (x + 1).device.type == "pretended" and torch.equal((x * 2).cpu(), torch.full((3,), 2.0))
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(3)]),
            lambda: x.lerp(x, torch.ones(3)),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
