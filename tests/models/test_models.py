"""Opening checkpoints and adapters, and reading their heads in the right places."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from families import FAMILIES, GROUPED, HEADS, LAYERS, VOCABULARY, WIDTH, tiny
from mechdiff.circuits import Head, Position
from mechdiff.common.errors import InputError
from mechdiff.engine.examples import Examples
from mechdiff.engine.run import Run
from mechdiff.models.checkpoints import (
    Checkpoint,
    Shape,
    adapter_base,
    checkpoint_files,
    is_adapter,
    read_shape,
    read_tokenizer,
    tokenizer_folder,
)
from mechdiff.models.hooks import capture_outputs, editing_outputs, editing_vectors, last_logits
from mechdiff.models.loading import open_model
from mechdiff.models.patchable import patchable
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
    assert str(read_shape(base)) == "3 layers x 3 heads, width 12, vocabulary 200"
    assert is_adapter(adapter) and not is_adapter(base) and adapter_base(adapter) == str(base)
    tuned = on(adapter, base)
    assert checkpoint_files(tuned)[:2] == [
        str(adapter / "adapter_config.json"),
        str(adapter / "adapter_model.safetensors"),
    ]
    assert checkpoint_files(tuned)[2:] == checkpoint_files(Checkpoint("base", base))
    assert checkpoint_files(tuned)[-2:] == [str(base / "tokenizer.json"), str(base / "tokenizer_config.json")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_shape_is_read_from_its_config(family, tmp_path):
    network = tiny(family)
    network.config.save_pretrained(tmp_path)
    shape = patchable("m", network).shape
    assert read_shape(tmp_path) == shape == Shape(LAYERS, HEADS, shape.head_dim, WIDTH, VOCABULARY)
    assert read_shape(tmp_path).vocabulary == shape.vocabulary == VOCABULARY


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


def test_a_family_whose_attention_does_not_fit_is_refused():
    """Its values are shorter than its queries."""
    sizes = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 2}
    sizes |= {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "kv_lora_rank": 4, "q_lora_rank": 4}
    sizes |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    network = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes))
    line = f"^{type(network).__name__}: its heads' outputs are not what enters the output projection; allowed: decoders"
    with pytest.raises(InputError, match=line):
        patchable("m", network)


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


def setting(**settings):
    """Keys of config.json, set."""

    def damage(folder):
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(own | settings))

    return damage


def own_code(at="modeling_own.Own"):
    return setting(model_type="own", auto_map={"AutoModelForCausalLM": at})


def index_of(weights):
    """An index of shards in place of the weights."""

    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))

    return damage


def quantised(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    setting(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})(folder)


def only_sentencepiece(folder):
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


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
            own_code(),
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
        (lambda f: (f / "config.json").write_text("[" * 10**5), r"config\.json: cannot be read \(nested too deeply\)$"),
        (lambda f: (f / "config.json").write_text("\ufeff{}"), r"config\.json: cannot be read \(Unexpected UTF-8 BOM"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), r"config\.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: holds no JSON object$"),
        (
            lambda f: (f / "config.json").write_text('{"vocab_size": 1, "vocab_size": 2}'),
            r"config\.json: cannot be read \('vocab_size' stands there twice\)$",
        ),
        (
            setting(num_hidden_layers=10**6),
            r"config\.json: asks for 1000000 layers x .*; allowed: at most its 30 weights$",
        ),
        (setting(vocab_size=10**12), r"config\.json: asks for .*; allowed: what its \d+ bytes of weights can hold$"),
        (
            setting(hidden_size=3 * 10**12),
            r"config\.json: asks for .*; allowed: what its \d+ bytes of weights can hold$",
        ),
        (
            setting(intermediate_size=10**10),
            r"\(other shape: .* is \[12, 16\], its config asks for \[12, 10000000000\]",
        ),
        (setting(num_hidden_layers=0), r"config\.json: num_hidden_layers is 0; allowed: a whole number above 0$"),
        (setting(num_attention_heads=-3), r"config\.json: num_attention_heads is -3; allowed: a whole number above 0$"),
        (
            setting(num_attention_heads=True),
            r"config\.json: num_attention_heads is True; allowed: a whole number above",
        ),
        (
            setting(head_dim=None, hidden_size=13),
            r"config\.json: hidden_size is 13; allowed: a multiple of its 3 heads$",
        ),
        (index_of({"a": 7}), r"index\.json: weight_map\.a is 7; allowed: the name of a file in the same folder$"),
        (
            index_of({"a": "../x.safetensors"}),
            r"index\.json: weight_map\.a is '\.\./x\.safetensors'; allowed: the name",
        ),
        (index_of({"a": "/x.safetensors"}), r"index\.json: weight_map\.a is '/x\.safetensors'; allowed: the name of a"),
        (index_of([]), r"index\.json: has no weight_map; allowed: an index of shards$"),
        (
            quantised,
            r"config\.json: quantization_config is 'bitsandbytes'; allowed: plain weights: .*dequantize\(\)\.save_p",
        ),
        *(
            (setting(quantization_config={"quant_method": method}), rf"config\.json: quantization_config is '{method}'")
            for method in ("bitnet", "fp8", "torchao", "of_another_time")
        ),
        *(
            (setting(**{key: value}), r"config\.json: model 'm' cannot be opened \(\w+: ")
            for key, value in (("hidden_act", 3), ("rms_norm_eps", "1e-6"), ("intermediate_size", None))
        ),
        (setting(model_type=["llama"], auto_map={"AutoConfig": "a.B"}), r"^models\.m\.trust_remote_code: false, but"),
        (
            only_sentencepiece,
            r"^models\.m\.path: .* has no tokenizer\.json; allowed: .*tokenizer\.model: AutoTokenizer\.from_pretrained",
        ),
    ],
)
def test_a_bad_checkpoint_gives_one_line_that_names_the_file(base, tmp_path, damage, line):
    with pytest.raises(InputError, match=line) as caught:
        open_model(Checkpoint("m", damaged(base, tmp_path, damage)))
    assert "\n" not in str(caught.value)


PREFERENCES: dict[str, dict] = {
    "attention": {"_attn_implementation": "flash_attention_2"},
    "kernels": {"attn_implementation": "kernels-community/flash-attn3"},
    "experts": {"experts_implementation": "of_another_machine"},
    "outputs": {"output_attentions": True, "output_hidden_states": True, "return_dict": False, "use_cache": False},
    "numbers": {"dtype": "float4", "torch_dtype": "bfloat16"},
    "quantisation": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "no code": {"auto_map": None},
    "code of a kind": {"auto_map": 7},
    "code elsewhere": {"auto_map": {"AutoConfig": "lab/thing--a.B", "AutoModelForCausalLM": "lab/thing--a.B"}},
}


@pytest.mark.parametrize("preferences", PREFERENCES)
@pytest.mark.parametrize("trust", [False, True])
def test_what_the_writer_of_a_config_preferred_is_passed_over(base, tmp_path, preferences, trust):
    folder = damaged(base, tmp_path, setting(**PREFERENCES[preferences]))
    found = open_model(Checkpoint("m", folder, trust_remote_code=trust))
    assert torch.equal(last_logits(found, IDS), last_logits(micro_llama(3, 3), IDS))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
from .others import KIND
class OwnConfig(LlamaConfig):
    model_type = KIND
class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_models_own_is_run_from_its_folder_alone_and_recorded(base, tmp_path):
    def with_code(folder):
        setting(model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})(folder)
        (folder / "own.py").write_text(OWN_CODE)
        (folder / "others.py").write_text('KIND = "own"\n')

    model = Checkpoint("m", damaged(base, tmp_path, with_code), trust_remote_code=True)
    assert torch.equal(last_logits(open_model(model), IDS), last_logits(micro_llama(3, 3), IDS))
    assert {Path(file).name for file in checkpoint_files(model)} >= {"own.py", "others.py"}


OUTSIDE = [
    "lab/thing--own.Own",
    "../own.Own",
    "/{folder}/own.Own",
    "..own.Own",
    "sub/own.Own",
    "sub.own.Own",
    "./own.Own",
]


@pytest.mark.parametrize("at", [*OUTSIDE, "missing.Own", "own", "own.Own\n", 7, ["own.Own", "../own.Own"]])
@pytest.mark.parametrize("key", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_code_that_is_not_in_a_models_own_folder_is_refused_and_not_run(base, tmp_path, key, at):
    at = at.format(folder=tmp_path) if isinstance(at, str) else at
    folder = damaged(base, tmp_path, setting(model_type="own", auto_map={key: at}))
    (Path(folder) / "sub").mkdir()
    for place in (tmp_path, Path(folder) / "sub"):
        (place / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n{OWN_CODE}")
    (Path(folder) / "own.py").write_text("")
    with pytest.raises(InputError, match=rf"config\.json: auto_map\.{key} is .*; allowed: MODULE\.CLASS of a file"):
        open_model(Checkpoint("m", folder, trust_remote_code=True))
    assert not (tmp_path / "was_run").exists()


WRAPPED = {
    "gemma3": (Gemma3Config, Gemma3ForConditionalGeneration, "gemma3"),
    "llava": (LlavaConfig, LlavaForConditionalGeneration, "llama-biased"),
    "mistral3": (Mistral3Config, Mistral3ForConditionalGeneration, "mistral"),
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
VISION |= {"image_size": 8, "patch_size": 4}


def wrapped(kind, folder, tokenizer):
    """A decoder inside a model of images and text, saved; and the network."""
    config, network, family = WRAPPED[kind]
    text = FAMILIES[family]()
    vision = {"model_type": "pixtral" if kind == "mistral3" else "siglip_vision_model", **VISION}
    if kind == "llava":
        vision["model_type"] = "clip_vision_model"
    torch.manual_seed(0)
    whole = network(config(text_config=text.to_dict(), vision_config=vision)).eval()
    whole.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return whole


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_decoder_inside_a_wrapper_is_opened_alone_with_an_adapter_of_the_wrapper(kind, tokenizer, tmp_path):
    whole, ids = wrapped(kind, tmp_path / "base", tokenizer), IDS % VOCABULARY
    base = Checkpoint("base", tmp_path / "base")
    found = open_model(base)
    torch.testing.assert_close(last_logits(found, ids), whole(input_ids=ids).logits[:, -1].float(), atol=1e-5, rtol=0)
    assert read_shape(base.path) == found.shape and not hasattr(found.network.base_model, "vision_tower")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    network = peft.get_peft_model(whole, lora).eval()
    network.save_pretrained(tmp_path / "lora")
    tuned = last_logits(open_model(on(tmp_path / "lora", base.path)), ids)
    torch.testing.assert_close(tuned, network(input_ids=ids).logits[:, -1].float(), atol=1e-5, rtol=0)


def test_a_decoder_that_transformers_cannot_open_alone_is_refused(tokenizer, tmp_path):
    text: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **GROUPED,
    }
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
    network = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
    network.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"config\.json: model_type is 'qwen2_vl_text' inside 'qwen2_vl'; allowed: a dec"
    ):
        open_model(Checkpoint("m", tmp_path))


@pytest.mark.parametrize("stored", [in_shards, pickled, in_pickled_shards])
def test_weights_in_shards_and_pickles_are_the_same_model(base, tmp_path, stored):
    folder = damaged(base, tmp_path, stored)
    model = Checkpoint("m", folder, allow_pickle=stored is not in_shards)
    found, wanted = (last_logits(open_model(each), IDS) for each in (model, Checkpoint("base", base)))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    weights = [file for pattern in ("*model*.json", "*.safetensors", "*.bin") for file in folder.glob(pattern)]
    others = [folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")]
    assert set(checkpoint_files(model)) == {str(file) for file in (*weights, *others)}
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


# What is trained beside q_proj; words of the base as it was trained on, where it was resized before.
TABLES: dict[str, tuple[dict, int | None]] = {
    "unembedding": ({"target_modules": ["q_proj", "lm_head"]}, None),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, None),
    "both, DoRA": ({"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_dora": True}, None),
    "tied": ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, None),
    "copies": ({"modules_to_save": ["embed_tokens", "lm_head"]}, None),
    "a copy": ({"modules_to_save": ["lm_head"]}, None),
    "some words": ({"trainable_token_indices": [1, 2]}, None),
    "more words": ({}, 56),
    "fewer words": ({}, 48),
    "more words, unembedding": ({"target_modules": ["q_proj", "lm_head"]}, 56),
    "more words, embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, 56),
    "more words, copies": ({"modules_to_save": ["embed_tokens", "lm_head"]}, 56),
    "more words, some": ({"trainable_token_indices": [1, 2]}, 56),
}


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_all_that_an_adapters_file_holds_is_in_force(kind, tie, tokenizer, tmp_path):
    """As PEFT writes it by default, against the network that wrote it, and in the engine's own pass, bfloat16 too."""
    settings, words = TABLES[kind]
    base = tiny("llama", tie_word_embeddings=tie)
    base.save_pretrained(tmp_path / "base")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    if words:
        base.resize_token_embeddings(words)
    lora = peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False} | settings)
    network = peft.get_peft_model(base, lora).eval()
    network.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:  # what is copied or added begins as the base has it
                parameter.mul_(0.3 if "lora" in name else 1).add_(0.1 * torch.randn(parameter.shape))
    network.save_pretrained(tmp_path / "tuned")
    tuned, ids = on(tmp_path / "tuned", tmp_path / "base"), IDS % 48
    if kind == "more words, embedding" and not tie:  # what it says of the new words is nowhere to be read
        with pytest.raises(
            InputError, match=r"holds embeddings of 56 words and an unembedding of 50; allowed: the whole"
        ):
            open_model(tuned)
        return
    found = open_model(tuned)
    torch.testing.assert_close(last_logits(found, ids), network(input_ids=ids).logits[:, -1], atol=1e-5, rtol=0)
    for dtype in ("float32", "bfloat16"):
        model = open_model(on(tmp_path / "tuned", tmp_path / "base", dtype=dtype))
        examples = Examples(ids, ids[:, 0], {position: torch.full((len(ids),), 3) for position in Position})
        logit = Run(model, examples, 10**9).evaluate([])[0].logit
        whole = last_logits(model, ids).float().gather(1, examples.answers[:, None])[:, 0]
        torch.testing.assert_close(logit, whole, atol=1e-5 if dtype == "float32" else 0.1, rtol=0)


def test_what_would_be_dropped_from_an_adapters_file_is_refused(base, adapter, tmp_path):
    folder = damaged(adapter, tmp_path, lambda folder: None)
    weights = load_file(folder / "adapter_model.safetensors")
    for key, line in (
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", "unexpected keys: .*lora_C"),
        ("base_model.model.model.norm.bias", "unexpected keys: .*norm.bias"),
    ):
        save_file(weights | {key: torch.ones(12)}, folder / "adapter_model.safetensors")
        with pytest.raises(InputError, match=rf"adapter_model\.safetensors: model 'tuned' cannot be opened \({line}"):
            open_model(on(folder, base))


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
        (adapter_setting(r=10**10), r"cannot be opened \(its rank is 10000000000, more than there are numbers\)$"),
        (
            adapter_setting(r=3),
            r"\(other shape: .*lora_A.weight is \[2, 12\], its config asks for \[3, 12\] and others",
        ),
        (adapter_setting(peft_type="IA3"), r"adapter_config\.json: peft_type is 'IA3'; allowed: LORA"),
        (
            adapter_setting(base_model_name_or_path=7),
            r"adapter_config\.json: base_model_name_or_path is 7; allowed: a fol",
        ),
        (
            adapter_setting(layer_replication=[[0, 2], [1, 3]]),
            r"adapter_config\.json: layer_replication is .*; allowed: nu",
        ),
        (
            adapter_setting(alora_invocation_tokens=[1, 2]),
            r"adapter_config\.json: alora_invocation_tokens is \[1, 2\]; ",
        ),
        (
            adapter_setting(squared_gain=4.0),
            r"adapter_config\.json: squared_gain is 4\.0; allowed: .*a setting of peft",
        ),
        *(
            (
                adapter_setting(init_lora_weights=begun),
                rf"adapter_config\.json: init_lora_weights is '{begun}'; allowed: ",
            )
            for begun in ("pissa_niter_4", "corda", "lora_ga", "loftq")
        ),
        (adapter_setting(gain=0), r"adapter_config\.json: gain is 0; allowed: .*a setting of peft"),
        (adapter_setting(target_modules=["elsewhere"]), r"cannot be opened \(Target modules \{'elsewhere'\} not found"),
        (
            adapter_setting(base_model_name_or_path="a/other"),
            r"^models\.tuned\.base: .* is an adapter on a/other, not a/one; ",
        ),
        (
            adapter_setting(base_model_name_or_path="resources/models/mini-llama"),
            r"^models\.tuned\.base: .* is an adapter on resources/models/mini-llama; allowed: ",
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


@pytest.mark.parametrize("named", ["", None, "config", "/no/such/folder"])
def test_an_adapter_that_names_no_base_that_is_here_goes_onto_the_one_given(base, adapter, tmp_path, named):
    unknown = dict.fromkeys(["newer"], None) | {"newest": False, "other": {}, "another": [], "last": ""}
    folder = damaged(adapter, tmp_path, adapter_setting(base_model_name_or_path=named, **unknown))
    assert adapter_base(folder) == (named or None)
    assert torch.equal(*(last_logits(open_model(on(each, base)), IDS) for each in (folder, adapter)))


def test_a_tokenizer_is_the_one_given_or_its_own_or_its_bases(base, adapter):
    tuned = on(adapter, base)
    assert tokenizer_folder(tuned) == base and tokenizer_folder(replace(tuned, tokenizer="given")) == Path("given")
    assert checkpoint_files(replace(tuned, tokenizer="given"))[-1] == "given/tokenizer.json"
    fetched = Checkpoint("m", "results/checkpoints/a--b/1", base=Checkpoint("base", base), hub="a/b")
    of_base = [f"{base}/tokenizer.json", f"{base}/tokenizer_config.json"]
    assert checkpoint_files(fetched) == ["results/checkpoints/a--b/1", *of_base]


def test_a_bad_tokenizer_or_config_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(InputError, match=r"config\.json: num_attention_heads is None; allowed: a whole number above 0"):
        read_shape(tmp_path)
