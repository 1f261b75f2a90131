"""Opening checkpoints and adapters, and reading their heads in the right places."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from mechdiff.checkpoints import Shape, adapter_base, checkpoint_files, is_adapter, read_shape, read_tokenizer
from mechdiff.errors import InputError
from mechdiff.heads import Head
from mechdiff.hooks import capture_outputs, editing_outputs, editing_vectors, last_logits
from mechdiff.loading import open_model
from mechdiff.models import patchable
from micro import micro_llama, save_checkpoint

IDS = torch.randint(1, 100, (5, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return save_checkpoint(micro_llama(3, 3), tokenizer, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
    network = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    network.peft_config["default"].base_model_name_or_path = str(base)
    network.save_pretrained(folder)
    return folder


def test_shape_and_files_are_read_without_opening_the_model(base, adapter):
    assert read_shape(base) == Shape(layers=3, heads=3, width=12, vocabulary=200)
    assert is_adapter(adapter) and not is_adapter(base) and adapter_base(adapter) == base
    assert checkpoint_files(adapter, base)[:2] == [
        str(adapter / "adapter_config.json"),
        str(adapter / "adapter_model.safetensors"),
    ]
    assert checkpoint_files(adapter, base)[2:] == checkpoint_files(base)


def test_an_opened_checkpoint_is_the_saved_model(base):
    model = open_model("base", base)
    assert len(model.heads) == 9 and model.heads[4] == Head(1, 1)
    assert torch.equal(last_logits(model, IDS), last_logits(micro_llama(3, 3), IDS))


def test_an_adapter_stays_in_force_in_every_patched_run(base, adapter):
    """Against the same adapter merged into the weights; the hooks of the released code dropped it on o_proj."""
    wrapped = open_model("tuned", adapter, base)
    merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged = patchable("merged", merged.eval().requires_grad_(False))
    assert not torch.allclose(last_logits(wrapped, IDS), last_logits(open_model("base", base), IDS), atol=1e-3)

    def halve(layer, z):
        return z * 0.5 if layer == 1 else z

    for model_logits in (last_logits, lambda m, ids: capture_outputs(m, ids)[1]):
        torch.testing.assert_close(model_logits(wrapped, IDS), model_logits(merged, IDS), atol=1e-5, rtol=0)
    for edit in (
        lambda m: editing_outputs(m, halve),
        lambda m: editing_vectors(m, lambda layer, q, k, v: (halve(layer, q), k, v)),
        lambda m: editing_vectors(m, lambda layer, q, k, v: (q, k, halve(layer, v))),
    ):
        found = []
        for model in (wrapped, merged):
            with edit(model):
                found.append(last_logits(model, IDS))
        torch.testing.assert_close(*found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("values", [4, 2, 1])
def test_grouped_heads_share_the_value_that_the_model_gives_them(values):
    model = micro_llama(layers=1, heads=4, values=values)
    clean, _ = capture_outputs(model, IDS)
    for slot in range(values):

        def shift(layer, q, k, v, slot=slot):
            v = v.clone()
            v[:, :, slot] += 1
            return q, k, v

        with editing_vectors(model, shift):
            outputs, _ = capture_outputs(model, IDS)
        changed = {h for h in range(4) if not torch.allclose(outputs[0][:, :, h], clean[0][:, :, h], atol=1e-4)}
        assert changed == {head.index for head in model.heads if model.slot(head, "v") == slot}
        assert all(model.slot(head, "q") == head.index for head in model.heads)


def test_heads_that_are_not_where_they_are_looked_for_are_refused():
    network = micro_llama(2, 2).network
    attention = network.model.layers[0].self_attn
    attention.o_proj = torch.nn.Sequential(torch.nn.Tanh(), attention.o_proj)  # a gate before the projection is fine
    patchable("m", network)
    attention.o_proj.register_forward_pre_hook(lambda module, args: (args[0].tanh(),))
    with pytest.raises(InputError, match="heads' outputs are not what enters the output projection; allowed: decod"):
        patchable("m", network)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="BloomForCausalLM: its attention calls no function that can be stood in for"):
        patchable("m", bloom)


def test_an_adapter_that_does_not_fit_is_refused(base, adapter, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k.replace("layers.2", "layers.7"): v for k, v in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: .*\(missing keys: .*layers\.2"):
        open_model("m", folder, base)


def damaged(base, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(base, folder)
    damage(folder)
    return folder


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def one_missing(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.v_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def fewer_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 99}))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing, needed by model 'm'"),
        (lambda f: (f / "config.json").unlink(), r"config\.json: missing, needed by model 'm'"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), r"model\.safetensors: model 'm' cannot be opened"),
        (not_finite, r"model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight has values that are not finite"),
        (one_missing, r"model\.safetensors: .*missing keys: model\.layers\.1\.self_attn\.v_proj\.weight"),
        (fewer_layers, r"model\.safetensors: .*unexpected keys: model\.layers\.2\..* and others"),
        (other_shape, r"model\.safetensors: model 'm' cannot be opened"),
        (lambda f: (f / "config.json").write_text("{"), r"cannot be opened"),
    ],
)
def test_a_bad_checkpoint_gives_one_line_that_names_the_file(base, tmp_path, damage, line):
    with pytest.raises(InputError, match=line) as caught:
        open_model("m", damaged(base, tmp_path, damage))
    assert "\n" not in str(caught.value)


def test_a_bad_tokenizer_or_config_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(InputError, match=r"config\.json: num_attention_heads is None; allowed: a whole number"):
        read_shape(tmp_path)
