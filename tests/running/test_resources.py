"""What jobs ask a cluster for follows from the models' size, their device and the attempt."""

from __future__ import annotations

import json
import shutil

import pytest

from mechdiff.models.checkpoints import opened_bytes
from mechdiff.running.config import checked, checkpoint, gpus_for
from mechdiff.running.resources import GB, PROGRAM, model_resources
from micro import OBJECTS, micro_llama, save_checkpoint

MEMORY = 5 * GB


@pytest.fixture
def folder(tmp_path, tokenizer):
    save_checkpoint(micro_llama(), tokenizer, tmp_path / "there")
    (tmp_path / "objects.txt").write_text("\n".join(OBJECTS))
    return tmp_path


@pytest.fixture
def config(folder):
    def made(**models: dict) -> dict:
        for name, model in models.items():
            model |= {"path": str(folder / model.get("path", "there"))} | ({} if name == "base" else {"base": "base"})
        task = {"objects": str(folder / "objects.txt")}
        return checked({"run": "r", "task": task, "models": models, "memory": MEMORY})

    return made


@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        ({}, 0),
        ({"device": "cpu"}, 0),
        ({"device": "cuda"}, 1),
        ({"device": "cuda:0"}, 1),
        ({"device": "cuda:1"}, 2),
        ({"device": "auto"}, 1),
        ({"device": {"model.embed_tokens": "cpu", "model.layers": "cuda:2"}}, 3),
        ({"device": {"model": "cpu"}}, 0),
        ({"device": "auto", "gpus": 4}, 4),
        ({"device": "cuda", "gpus": 0}, 0),
        ({"gpus": 1}, 1),
    ],
)
def test_a_model_asks_for_the_gpus_that_its_device_needs_unless_it_says_how_many(config, model, gpus):
    found = config(base=model)
    assert gpus_for(found, "base") == gpus
    assert model_resources(found, ["base"], 1)["gpu"] == (gpus or None), "a job on the cpu does not mention them"


def test_a_fine_tuned_model_asks_for_the_gpus_of_its_base_where_it_has_its_device(config):
    found = config(base={"device": "auto", "gpus": 3}, same={}, said={"device": "auto"}, own={"device": "cpu"})
    assert [gpus_for(found, name) for name in ("same", "said", "own")] == [3, 3, 0]
    assert model_resources(found, ["own", "base"], 1)["gpu"] == 3, "of two models the larger"


def test_memory_is_the_weights_of_each_model_and_what_an_experiment_holds(config, folder):
    found = config(base={}, tuned={})
    one = (folder / "there" / "model.safetensors").stat().st_size
    assert opened_bytes(checkpoint(found, "base")) == one
    fixed = (MEMORY + PROGRAM) / 10**6
    assert model_resources(found, ["base"], 1)["mem_mb"] == pytest.approx(fixed + one / 10**6, abs=1)
    assert model_resources(found, ["tuned", "base"], 1)["mem_mb"] == pytest.approx(fixed + 2 * one / 10**6, abs=1)
    assert model_resources(found, ["base", "base"], 1) == model_resources(found, ["base"], 1)


def test_weights_that_are_read_in_another_type_count_as_they_are_held(config, folder):
    settings = json.loads((folder / "there" / "config.json").read_text())
    one = (folder / "there" / "model.safetensors").stat().st_size
    assert opened_bytes(checkpoint(config(base={"dtype": "float16"}), "base")) == one // 2
    (folder / "there" / "config.json").write_text(json.dumps(settings | {"dtype": "float16"}))
    assert opened_bytes(checkpoint(config(base={}), "base")) == one * 2


def test_an_adapter_counts_with_its_base(config, folder):
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder / "there")})
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"0" * 1000)
    found = config(base={}, lora={"path": "adapter", "adapter": True})
    assert opened_bytes(checkpoint(found, "lora")) == opened_bytes(checkpoint(found, "base")) + 1000


def test_weights_that_are_not_there_yet_count_as_seven_billion_numbers(config, folder):
    found = config(base={"path": "later", "dtype": "float16", "device": "cuda"})
    assert opened_bytes(checkpoint(found, "base")) is None
    assert model_resources(found, ["base"], 1) == {"mem_mb": 14_000 + 5_000 + 3_000, "runtime": 30 + 140, "gpu": 1}
    shutil.copytree(folder / "there", folder / "later")
    (folder / "later" / "model.safetensors").unlink()
    assert opened_bytes(checkpoint(found, "base")) is None


def test_each_attempt_asks_for_as_much_memory_and_time_again_and_the_same_gpus(config):
    found = config(base={"path": "later", "device": "cuda"})
    first, third = (model_resources(found, ["base"], attempt) for attempt in (1, 3))
    assert (third["mem_mb"], third["runtime"], third["gpu"]) == (3 * first["mem_mb"], 3 * first["runtime"], 1)
    on_cpu = model_resources(config(base={"path": "later"}), ["base"], 1)
    assert on_cpu["runtime"] - 30 == 10 * (first["runtime"] - 30), "a CPU is given more time"
