"""Opening checkpoints and adapters, and reading their heads in the right places."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from families import FAMILIES, HEADS, LAYERS, VOCABULARY, WIDTH
from mechdiff.checkpoints import (
    Checkpoint,
    Shape,
    adapter_base,
    checkpoint_files,
    is_adapter,
    read_shape,
    read_tokenizer,
    tokenizer_folder,
)
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


def on(adapter, base, **entry):
    """An adapter folder on a base folder; entry: keys of the base's entry."""
    return Checkpoint("tuned", adapter, base=Checkpoint("base", base, **entry), adapter=True)


def test_shape_and_files_are_read_without_opening_the_model(base, adapter):
    assert read_shape(base) == Shape(layers=3, heads=3, width=12, vocabulary=200)
    assert is_adapter(adapter) and not is_adapter(base) and adapter_base(adapter) == str(base)
    tuned = on(adapter, base)
    assert checkpoint_files(tuned)[:2] == [
        str(adapter / "adapter_config.json"),
        str(adapter / "adapter_model.safetensors"),
    ]
    assert checkpoint_files(tuned)[2:] == checkpoint_files(Checkpoint("base", base))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_shape_is_read_from_its_config(family, tmp_path):
    FAMILIES[family]().save_pretrained(tmp_path)
    assert read_shape(tmp_path) == Shape(LAYERS, HEADS, WIDTH, VOCABULARY)


def test_an_opened_checkpoint_is_the_saved_model(base):
    model = open_model(Checkpoint("base", base))
    assert len(model.heads) == 9 and model.heads[4] == Head(1, 1)
    assert torch.equal(last_logits(model, IDS), last_logits(micro_llama(3, 3), IDS))


def test_an_adapter_stays_in_force_in_every_patched_run(base, adapter):
    """Against the same adapter merged into the weights; the hooks of the released code dropped it on o_proj."""
    wrapped = open_model(on(adapter, base))
    merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged = patchable("merged", merged.eval().requires_grad_(False))
    assert not torch.allclose(
        last_logits(wrapped, IDS), last_logits(open_model(Checkpoint("base", base)), IDS), atol=1e-3
    )

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
        open_model(on(folder, base))


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


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def own_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="8KB")
    (folder / "model.safetensors").unlink()


def in_pickled_shards(folder):
    in_shards(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in set(index["weight_map"].values()):
        torch.save(load_file(folder / shard), folder / shard.replace(".safetensors", ".bin"))
        (folder / shard).unlink()
    index["weight_map"] = {key: shard.replace(".safetensors", ".bin") for key, shard in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            shutil.rmtree,
            r"^models\.m\.path: no folder .*; allowed: a folder with config\.json, model\.safetensors, tok",
        ),
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"^models\.m\.path: .* has no model\.safetensors; allowed: a folder",
        ),
        (
            lambda f: (f / "config.json").unlink(),
            r"^models\.m\.path: .* has no config\.json; allowed: a folder that has$",
        ),
        (truncated, r"model\.safetensors: model 'm' cannot be opened \(Error while deserializing header: incomplete"),
        (
            own_code,
            r"^models\.m\.trust_remote_code: false, but .* brings its own code; allowed: a model without, or true",
        ),
        (
            pickled,
            r"^models\.m\.allow_pickle: false, but .* has its weights in pytorch_model\.bin; allowed: ",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), r"model\.safetensors: model 'm' cannot be opened"),
        (not_finite, r"model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight has values that are not finite"),
        (one_missing, r"model\.safetensors: .*missing keys: model\.layers\.1\.self_attn\.v_proj\.weight"),
        (fewer_layers, r"model\.safetensors: .*unexpected keys: model\.layers\.2\..* and others"),
        (
            other_shape,
            r"\(other shape: model\.layers\.0\.mlp\.down_proj\.weight is \[12, 16\], its config asks for \[12, 99\] a",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: cannot be read"),
    ],
)
def test_a_bad_checkpoint_gives_one_line_that_names_the_file(base, tmp_path, damage, line):
    with pytest.raises(InputError, match=line) as caught:
        open_model(Checkpoint("m", damaged(base, tmp_path, damage)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", [in_shards, pickled, in_pickled_shards])
def test_weights_in_shards_and_pickles_are_the_same_model(base, tmp_path, stored):
    folder = damaged(base, tmp_path, stored)
    model = Checkpoint("m", folder, allow_pickle=stored is not in_shards)
    found, wanted = (last_logits(open_model(each), IDS) for each in (model, Checkpoint("base", base)))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    weights = [file for pattern in ("*model*.json", "*.safetensors", "*.bin") for file in folder.glob(pattern)]
    assert set(checkpoint_files(model)) == {
        str(f) for f in (*weights, folder / "config.json", folder / "tokenizer.json")
    }
    assert len(weights) == 1 or len(weights) > 3


def test_a_missing_or_damaged_shard_is_named(base, tmp_path):
    folder = damaged(base, tmp_path, in_shards)
    shard = sorted(folder.glob("model-00002-of-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(
        InputError, match=rf"{shard.name}: model 'm' cannot be opened \(Error while deserializing header"
    ):
        open_model(Checkpoint("m", folder))
    shard.unlink()
    with pytest.raises(
        InputError, match=rf"^models\.m\.path: .*damaged has no {shard.name}; allowed: a folder that has$"
    ):
        open_model(Checkpoint("m", folder))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_is_opened_in_its_dtype_and_an_adapter_takes_it_on(base, adapter, dtype):
    for model in (open_model(Checkpoint("m", base, dtype=dtype)), open_model(on(adapter, base, dtype=dtype))):
        assert {str(parameter.dtype) for parameter in model.network.parameters()} == {f"torch.{dtype}"}


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}])
@pytest.mark.parametrize("pickle", [False, True])
def test_every_kind_of_lora_goes_onto_the_base(base, tmp_path, settings, pickle):
    torch.manual_seed(2)
    lora = peft.LoraConfig(r=2, target_modules=ALL, init_lora_weights=False, **settings)
    network = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    network.save_pretrained(tmp_path, safe_serialization=not pickle)
    opened = replace(on(tmp_path, base), allow_pickle=pickle)
    merged = patchable("merged", network.merge_and_unload().eval())
    torch.testing.assert_close(last_logits(open_model(opened), IDS), last_logits(merged, IDS), atol=1e-5, rtol=0)


def test_a_device_that_is_not_there_is_refused(base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(InputError) as caught:
            open_model(Checkpoint("m", base, device=device))
        assert str(caught.value) == f"models.m.device: '{device}'; allowed on this machine: cpu, auto"
    with pytest.raises(InputError, match=r"^models\.m\.device: 'cuda:1'; allowed on this machine: cpu, disk$"):
        open_model(Checkpoint("m", base, device={"model": "cpu", "lm_head": "cuda:1"}))


@pytest.mark.parametrize("device", ["auto", {"": "cpu"}, {"model": "cpu", "lm_head": "disk"}])
def test_a_model_may_be_spread_over_devices(base, device):
    spread = open_model(Checkpoint("m", base, device=device))
    assert torch.equal(last_logits(spread, IDS), last_logits(open_model(Checkpoint("base", base)), IDS))


def test_an_adapter_needs_its_place_in_memory(base, adapter):
    places = dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"], "cpu")
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    with pytest.raises(InputError, match=r"cannot be opened \(\S+ would have to wait outside the device that its base"):
        open_model(on(adapter, base, device=places))


def adapter_setting(**settings):
    def damage(folder):
        own = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(own | settings))

    return damage


def adapter_not_finite(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in weights if "layers.1.self_attn.v_proj.lora_A" in key)
    save_file(weights | {key: weights[key] * float("inf")}, folder / "adapter_model.safetensors")


def adapter_pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            adapter_setting(r=3),
            r"\(other shape: .*lora_A.weight is \[2, 12\], its config asks for \[3, 12\] and others",
        ),
        (adapter_setting(peft_type="IA3"), r"adapter_config\.json: peft_type is 'IA3'; allowed: LORA"),
        (adapter_setting(target_modules=["elsewhere"]), r"cannot be opened \(Target modules \{'elsewhere'\} not found"),
        (
            adapter_setting(base_model_name_or_path="a/other"),
            r"^models\.tuned\.base: .* is an adapter on a/other, not a/one; ",
        ),
        (
            adapter_setting(base_model_name_or_path="config"),
            r"^models\.tuned\.base: .* is an adapter on config; allowed: ",
        ),
        (adapter_not_finite, r"layers\.1\.self_attn\.v_proj\.lora_A\.default\.weight has values that are not finite"),
        (
            adapter_pickled,
            r"^models\.tuned\.allow_pickle: false, but .* has its weights in adapter_model\.bin; allowed: a",
        ),
    ],
)
def test_a_bad_adapter_gives_one_line_that_names_the_file_or_key(base, adapter, tmp_path, damage, line):
    folder = damaged(adapter, tmp_path, damage)
    with pytest.raises(InputError, match=line) as caught:
        open_model(on(folder, base, hub="a/one"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_is_the_one_given_or_its_own_or_its_bases(base, adapter):
    tuned = on(adapter, base)
    assert tokenizer_folder(tuned) == base and tokenizer_folder(replace(tuned, tokenizer="given")) == Path("given")
    assert checkpoint_files(replace(tuned, tokenizer="given"))[-1] == "given/tokenizer.json"
    fetched = Checkpoint("m", "results/checkpoints/a--b/1", base=Checkpoint("base", base), hub="a/b")
    assert checkpoint_files(fetched) == ["results/checkpoints/a--b/1", f"{base}/tokenizer.json"]


def test_a_bad_tokenizer_or_config_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(InputError, match=r"config\.json: num_attention_heads is None; allowed: a whole number"):
        read_shape(tmp_path)
