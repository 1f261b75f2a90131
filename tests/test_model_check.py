"""What is refused before any experiment on a model."""

import pytest

from mechdiff.errors import InputError
from mechdiff.model_check import check_model
from mechdiff.task import LABELS
from micro import OBJECTS, build_dataset, micro_llama, save_checkpoint, word_tokenizer

ROWS = {"discovery": 4, "minimality": 1, "evaluation": 1, "means": 1}


@pytest.fixture(scope="module")
def prompts(task):
    return build_dataset(task, ROWS, 0)["discovery"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return str(save_checkpoint(micro_llama(2, 3), tokenizer, tmp_path_factory.mktemp("base")))


def check(path, base, prompts, tolerance=1e-5):
    return check_model("m", str(path), None, base, prompts, tolerance, batch_size=4)


def test_a_good_model_passes_and_its_null_patch_is_kept(base, prompts):
    found = check(base, base, prompts)
    assert found["null_patch"] == {"largest_by_layer": [0.0, 0.0], "tolerance": 1e-5}
    assert found["shape"] == "2 layers x 3 heads, width 12, vocabulary 200"


def test_another_shape_is_refused(base, prompts, tokenizer, tmp_path):
    save_checkpoint(micro_llama(3, 3), tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"^models\.m\.path: .* has shape 3 layers x 3 heads"):
        check(tmp_path, base, prompts)


def test_a_tokenizer_with_other_ids_is_refused(base, prompts, tmp_path):
    other = word_tokenizer([*LABELS, "The", "the", "is", "in", "Box", ",", ".", "contains", *OBJECTS])
    save_checkpoint(micro_llama(2, 3), other, tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json: does not give the base's tokens for 'The "):
        check(tmp_path, base, prompts)


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(prompts, tokenizer, tmp_path):
    save_checkpoint(micro_llama(2, 3, vocabulary=30), tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"tokenizer\.json: gives id \d+, the model knows ids below 30"):
        check(tmp_path, str(tmp_path), prompts)


def test_a_null_patch_over_the_tolerance_stops_and_names_the_layer(base, prompts):
    with pytest.raises(InputError, match=r"a null patch in layer 0 changes a logit by 0, over -1"):
        check(base, base, prompts, tolerance=-1)
