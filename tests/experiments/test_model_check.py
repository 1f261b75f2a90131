"""What is refused before any experiment on a model."""

import json
from itertools import count

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from mechdiff.common.errors import InputError
from mechdiff.engine import chunk
from mechdiff.engine.edits import Part
from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import not_evaluated
from mechdiff.experiments.model_check import PLAIN, check_model, null_patch_differences, zero_patch_differences
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.tasks.boxes.task import LABELS
from micro import OBJECTS, build_dataset, micro_llama, save_checkpoint, word_tokenizer

ROWS = {"discovery": 4, "minimality": 1, "evaluation": 1, "means": 1}


@pytest.fixture(scope="module")
def prompts(task):
    return build_dataset(task, ROWS, 0)["discovery"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return str(save_checkpoint(micro_llama(2, 3), tokenizer, tmp_path_factory.mktemp("base")))


def check(path, base, prompts, tolerance=1e-4, least=1.5, **entry):
    on = None if str(path) == base else Checkpoint("base", base)
    model = Checkpoint("m", str(path), base=on, **entry)
    return check_model(model, prompts, tolerance, chance=1 / 7, least=least, memory=10**9)


def test_a_good_model_passes_and_its_null_patch_is_kept(base, prompts):
    found = check(base, base, prompts)
    assert len(found["null_patch"]["largest_by_layer"]) == 2 and max(found["null_patch"]["largest_by_layer"]) < 1e-5
    largest = max(found["captured"], *found["null_patch"]["largest_by_layer"])
    assert 2 * largest <= found["rounding"] < 1e-4, "of a probability: of a logit, and of what it is compared with"
    assert found["captured"] < 1e-5 and found["null_patch"]["tolerance"] == 1e-4
    assert found["shape"] == "2 layers x 3 heads, width 12, vocabulary 200"


def test_a_model_hardly_better_than_chance_passes_but_is_not_evaluated(base, prompts, tmp_path):
    weak, any_will_do = check(base, base, prompts), check(base, base, prompts, least=0)
    assert weak["accuracy"] == 0 and weak["n"] == 4
    assert weak["not_evaluated"] == "accuracy 0.00, chance 0.14" and any_will_do["not_evaluated"] is None
    for name, found in (("weak", weak), ("good", any_will_do)):
        (tmp_path / name).write_text(json.dumps(found))
    assert not_evaluated(tmp_path / "good", tmp_path / "weak") == "accuracy 0.00, chance 0.14"
    assert not_evaluated(tmp_path / "good") is None


def test_another_shape_is_refused(base, prompts, tokenizer, tmp_path):
    save_checkpoint(micro_llama(3, 3), tokenizer, tmp_path)
    line = r"^models\.m\.path: .* has 3 layers x 3 heads of dimension 4, width 12; allowed: those of its base, 2 layers"
    with pytest.raises(InputError, match=line):
        check(tmp_path, base, prompts)


@pytest.mark.parametrize("words", [199, 201, 256])
def test_another_number_of_words_is_no_other_shape(base, prompts, tokenizer, tmp_path, words):
    save_checkpoint(micro_llama(2, 3, vocabulary=words), tokenizer, tmp_path)
    assert check(tmp_path, base, prompts)["shape"] == f"2 layers x 3 heads, width 12, vocabulary {words}"


def test_a_tokenizer_with_other_ids_is_refused(base, prompts, tmp_path):
    other = word_tokenizer([*LABELS, "The", "the", "is", "in", "Box", ",", ".", "contains", *OBJECTS])
    save_checkpoint(micro_llama(2, 3), other, tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json: does not give the base's tokens for 'The "):
        check(tmp_path, base, prompts)


def test_a_tokenizer_without_a_needed_token_is_refused(base, prompts, tmp_path):
    words = ["The", "the", "is", "in", ",", ".", "contains", *OBJECTS, *LABELS]
    save_checkpoint(micro_llama(2, 3), word_tokenizer(words), tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json: has no token 'Box' for 'The "):
        check(tmp_path, base, prompts)
    found = check(tmp_path, base, prompts, tokenizer=base)
    assert found["captured"] < 1e-5, "with the base's it is the same model"


def test_a_tokenizer_that_lost_the_token_before_the_text_is_refused_with_the_cure(base, prompts, tokenizer, tmp_path):
    save_checkpoint(micro_llama(2, 3), tokenizer, tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings | {"post_processor": None}))
    with pytest.raises(InputError, match=r"puts no '<s>' before the text.* allowed: .*models\.m\.tokenizer: " + base):
        check(tmp_path, base, prompts)
    assert check(tmp_path, base, prompts, tokenizer=base)["captured"] < 1e-5


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(prompts, tokenizer, tmp_path):
    save_checkpoint(micro_llama(2, 3, vocabulary=30), tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json: gives id \d+, the model knows ids below 30"):
        check(tmp_path, str(tmp_path), prompts)


LENGTH = {"num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 32}
SHORT = {
    "gpt2": (GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32), "n_positions is 32; allowed: at least 54"),
    "gptj": (
        GPTJConfig(n_layer=1, n_head=2, n_embd=16, rotary_dim=4, n_positions=32),
        "n_positions is 32; allowed: at ",
    ),
    "opt": (
        OPTConfig(**LENGTH, word_embed_proj_dim=16, ffn_dim=8),
        "max_position_embeddings is 32; allowed: at least 54",
    ),
    "llama": (LlamaConfig(**LENGTH, intermediate_size=32), None),  # rotations go on
}


@pytest.mark.parametrize("family", SHORT)
def test_places_that_a_model_does_not_have_are_missed_before_anything_is_run(prompts, tokenizer, tmp_path, family):
    config, line = SHORT[family]
    config.vocab_size = 200
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(tmp_path)
    if line is None:
        assert check(tmp_path, str(tmp_path), prompts)["captured"] < 1e-4
        return
    with pytest.raises(InputError, match=rf"config\.json: {line}"):
        check(tmp_path, str(tmp_path), prompts)


def test_logits_that_the_engine_does_not_find_again_stop_it(base, prompts):
    with pytest.raises(InputError, match=r"its logits and those of its captured run differ by \S+, over -1$"):
        check(base, base, prompts, tolerance=-1)


def test_a_null_patch_finds_runs_that_cannot_be_repeated(base, prompts):
    model = open_model(Checkpoint("m", base))
    run = Run(model, clean_examples(prompts), 10**9)
    assert max(null_patch_differences(run)) < 1e-5
    calls = count(1)
    # A module that answers differently each time it is asked, as dropout left on would.
    model.layers[1].self_attn.o_proj.register_forward_hook(lambda m, a, out: out + next(calls))
    assert min(null_patch_differences(run)) > 1e-4


def test_edits_that_do_not_arrive_are_found(base, prompts):
    model = open_model(Checkpoint("m", base))
    run = Run(model, clean_examples(prompts), 10**9)
    assert min(zero_patch_differences(run)) > 1e-4
    model.layers[1].self_attn.o_proj.weight.zero_()
    assert zero_patch_differences(run)[1] < 1e-5


def test_a_null_patch_that_changes_something_names_layer_and_head(base, prompts, monkeypatch):
    whole = chunk.capture

    def with_one_head_wrong(model, input_ids, wanted):
        kept = whole(model, input_ids, wanted)
        kept.parts[Part.OUTPUT][1][:, :, 2] *= 1.1
        return kept

    monkeypatch.setattr(chunk, "capture", with_one_head_wrong)
    with pytest.raises(InputError, match=r"a null patch in layer 1 changes a logit by \S+, over 0.0001; .* L1 H2 by"):
        check(base, base, prompts)


def test_a_family_that_is_not_known_passes_and_the_check_says_how_it_is_run(base, prompts, tokenizer, tmp_path):
    assert check(base, base, prompts)["computed"] == "causal cone"
    shape = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
    torch.manual_seed(0)
    OPTForCausalLM(OPTConfig(vocab_size=200, num_attention_heads=2, **shape)).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(tmp_path)
    found = check(tmp_path, str(tmp_path), prompts)
    assert found["computed"] == PLAIN and max(found["null_patch"]["largest_by_layer"]) < 1e-5
