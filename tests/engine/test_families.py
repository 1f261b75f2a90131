"""Every family: the engine is the plain way, for every kind of edit, and the captured run is the model's own."""

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, OPTConfig

from families import FAMILIES, HEADS, LAYERS, VOCABULARY, tiny
from mechdiff.circuits import Head
from mechdiff.engine.edits import Block, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.plain import PlainRun, everything
from mechdiff.engine.run import Run
from mechdiff.experiments.model_check import capture_difference, null_patch_differences, zero_patch_differences
from mechdiff.models.hooks import attention_weights, capture_outputs, last_logits
from mechdiff.models.patchable import patchable
from random_runs import EXACT, LAST, OBJECT, PREVIOUS, QUERY, Setting, prompts

INPUTS = [{Part.QUERY}, {Part.KEY}, {Part.VALUE}, {Part.QUERY, Part.KEY, Part.VALUE}]


@pytest.fixture(scope="module", params=list(FAMILIES))
def a(request):
    model = patchable(request.param, tiny(request.param))
    means = 0.3 * torch.randn(LAYERS, 14, HEADS, model.head_dim, generator=torch.Generator().manual_seed(3))
    return Setting(model, prompts(4, 14, 1), prompts(4, 14, 2), means)


def test_the_captured_run_gives_the_models_own_logits(a):
    assert a.model.known and len(a.model.heads) == LAYERS * HEADS
    own = last_logits(a.model, a.examples.input_ids)
    run, _ = Run(a.model, a.examples, 10**9).evaluate([])
    assert own.std() > 0.1, "a model whose logits do not vary shows nothing"
    assert (own.gather(1, a.examples.answers[:, None])[:, 0] - run.logit).abs().max() <= EXACT


def test_path_patches(a):
    receivers = (Head(1, 0), Head(1, 3), Head(2, 1))
    a.check([PathPatch(head, LAST) for head in a.model.heads], a.noise)
    for position, via in ((LAST, Part.QUERY), (QUERY, Part.VALUE), (PREVIOUS, Part.VALUE), (PREVIOUS, Part.KEY)):
        a.check([PathPatch(head, position, receivers, via) for head in a.model.heads], a.noise)


def test_circuits(a):
    nodes = {(Head(0, 1), PREVIOUS), (Head(1, 2), QUERY), (Head(2, 0), LAST), (Head(2, 3), LAST)}
    a.check([Keep(frozenset(nodes - {node})) for node in sorted(nodes)] + [Keep(frozenset(nodes))], a.means)


def test_replaced_outputs_and_inputs(a):
    nodes = [frozenset({(head, p)}) for head in a.model.heads[:: HEADS - 1] for p in (LAST, QUERY, OBJECT)]
    for source in (a.noise, a.means):
        a.check([Replace(node) for node in nodes], source)
    donor = patchable("donor", tiny(a.model.name, seed=1))
    for parts in INPUTS:
        edits = [
            Replace(frozenset().union(*nodes[:4]), frozenset(parts)),
            *(Replace(n, frozenset(parts)) for n in nodes),
        ]
        _, found = Run(a.model, a.examples, 10**9).evaluate(edits, Run(donor, a.examples, 10**9))
        _, wanted = PlainRun(a.model, a.examples).evaluate(edits, PlainRun(donor, a.examples))
        assert (found.logit - wanted.logit).abs().max() <= EXACT
        assert (found.log_probability - wanted.log_probability).abs().max() <= EXACT


def test_knockouts(a):
    for query, key in ((LAST, QUERY), (LAST, OBJECT), (QUERY, PREVIOUS)):
        a.check([Block(query, key, layer) for layer in range(LAYERS)], None)


def test_masks_and_their_gradients(a):
    heads, gradients = (Head(0, 1), Head(1, 3), Head(2, 2)), []
    for kind in (lambda e: Run(a.model, e, 10**9), lambda e: PlainRun(a.model, e)):
        own = torch.tensor([0.2, 1.0, 0.6], requires_grad=True)
        _, mixed = kind(a.examples).evaluate([Mix(QUERY, heads, own)], kind(a.noise))
        mixed.logit.sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*gradients, atol=10 * EXACT, rtol=0)


def test_attention_weights_are_what_outputs_are_made_with(a):
    kept, _ = everything(a.model, a.examples.input_ids)
    weights = attention_weights(a.model, a.examples.input_ids)
    for head in a.model.heads:
        seen, values = weights[head.layer][:, head.index], kept[Part.VALUE][head.layer]
        made = torch.einsum("nqt,ntd->nqd", seen, values[:, :, a.model.slot(head, Part.VALUE)])
        torch.testing.assert_close(made, kept[Part.OUTPUT][head.layer][:, :, head.index], atol=EXACT, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_pass_the_checks_of_a_model(family, dtype):
    model = patchable(family, tiny(family).to(dtype))
    run = Run(model, prompts(4, 14, 1), 10**9)
    most = 0.06 if dtype is torch.bfloat16 else 0.006
    assert max(capture_difference(run), *null_patch_differences(run)) <= most
    changed = zip(null_patch_differences(run), zero_patch_differences(run), strict=True)
    assert all(null < zero for null, zero in changed)


UNKNOWN = {"opt": OPTConfig, "falcon": lambda **shape: FalconConfig(alibi=True, **shape)}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_family_that_is_not_known_is_run_the_plain_way(kind):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    shape |= {"ffn_dim": 24, "word_embed_proj_dim": 16} if kind == "opt" else {}
    torch.manual_seed(0)
    model = patchable(kind, AutoModelForCausalLM.from_config(UNKNOWN[kind](**shape)).eval().requires_grad_(False))
    a = Setting(model, prompts(3, 12, 1), prompts(3, 12, 2), torch.randn(2, 12, 2, 8))
    assert not model.known
    run, noise = Run(model, a.examples, 10**6), Run(model, a.noise, 10**6)
    torch.testing.assert_close(run.mean_outputs(), torch.stack(capture_outputs(model, a.examples.input_ids)[0]).mean(1))
    assert max(null_patch_differences(run)) <= EXACT < min(zero_patch_differences(run))
    own = torch.ones(1, requires_grad=True)
    for edits, source in (
        ([PathPatch(head, QUERY, (Head(1, 0),), Part.VALUE) for head in model.heads], noise),
        ([Keep(frozenset({(Head(1, 1), LAST)}))], a.means),
        ([Block(LAST, OBJECT, 0)], None),
        ([Mix(LAST, (Head(0, 1),), own)], noise),
    ):
        base, found = run.evaluate(edits, source)
        assert (found.logit - base.logit).abs().max() > EXACT or isinstance(edits[0], Mix)
    found.logit.sum().backward()
    assert own.grad.abs() > EXACT
