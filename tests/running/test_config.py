"""A bad config is refused with one line that names key, value and what is allowed."""

import copy
import io
import json
import re
import shutil

import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from hypothesis import given, settings, strategies
from pandas._libs.parsers import STR_NA_VALUES

from mechdiff.circuits import head_count
from mechdiff.common.errors import InputError
from mechdiff.models.checkpoints import tokenizer_folder
from mechdiff.report.published import published
from mechdiff.running.config import (
    OBJECT_LIST,
    TAKEN_RUNS,
    checked,
    checkpoint,
    missing_checkpoints,
    plan_for,
    random_subsets_for,
    read_objects,
    read_planted,
    shipped,
    threshold_for,
)
from mechdiff.running.schema import SCHEMA
from mechdiff.tasks.boxes.dataset import SPLITS
from mechdiff.tasks.boxes.task import LABELS, PLACES
from micro import OBJECTS, OBJECTS_FILE, ROOT, build_dataset, micro_llama, save_checkpoint, word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(micro_llama(2, 3), tokenizer, folder / "base")
    save_checkpoint(micro_llama(3, 3), tokenizer, folder / "deeper")
    few = word_tokenizer(["The", "the", "is", "in", "Box", ",", ".", "contains", *OBJECTS[:5], *LABELS])
    save_checkpoint(micro_llama(2, 3), few, folder / "few")
    (folder / "objects.txt").write_text("\n".join(OBJECTS))
    (folder / "three.txt").write_text("apple\nbook\ncup\n")
    (folder / "twice.txt").write_text("apple\nbook\n" * 2)
    (folder / "folder").mkdir()
    (folder / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("apple\nbook\n".encode("utf-16"))
    (folder / "hidden.txt").write_text("apple\nbo\u200bok\n")
    (folder / "tab.txt").write_text("apple\t1\n")
    (folder / "marked.txt").write_text("apple\n\ufeffbook\n")
    (folder / "forms.txt").write_text("café\ncafe\u0301\n")
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture
def config(folder):
    plan = [
        {"group": "A", "name": "Fetch", "position": "last", "receiver": "logits", "keep": 4, "receivers": 2},
        {"group": "B", "name": "Send", "position": "last", "receiver": "A", "via": "q", "keep": 2},
    ]
    models = {"base": {"path": str(folder / "base")}, "tuned": {"path": str(folder / "base"), "base": "base"}}
    return {"run": "r", "task": {"objects": str(folder / "objects.txt")}, "models": models, "plan": plan}


def test_defaults_are_the_papers_settings(config):
    filled = checked(config)
    assert filled["dataset"] == {
        "layout": "disjoint",
        "rows": {"discovery": 300, "minimality": 500, "evaluation": 500, "means": 500},
    }
    assert tuple(filled["dataset"]["rows"]) == SPLITS, "rules draw them in this order"
    assert filled["minimality"] == {"fraction": 0.3, "threshold": 0.01, "per_model": {}}
    assert filled["evaluation"]["random_circuits"] == 10
    assert filled["task"]["boxes"] == 7
    assert filled["plan"][1]["exclude"] == [] and filled["plan"][1]["receivers"] is None
    assert "dataset" not in config, "the config given is not changed"


def test_single_models_may_have_their_own_counts_and_threshold(config):
    config["plan"][0]["per_model"] = {"tuned": {"keep": 6, "receivers": 5}}
    config["minimality"] = {"per_model": {"tuned": 0.0}}
    filled = checked(config)
    assert [(e["keep"], e["receivers"]) for e in plan_for(filled, "tuned")] == [(6, 5), (2, None)]
    assert [(e["keep"], e["receivers"]) for e in plan_for(filled, "base")] == [(4, 2), (2, None)]
    assert (threshold_for(filled, "tuned"), threshold_for(filled, "base")) == (0.0, 0.01)


def bad(key: str, value, expected: str):
    return pytest.param(key, value, expected, id=f"{key}={value}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        bad("seed", "ten", "seed: 'ten' is not allowed; allowed: a value of type integer"),
        bad("memory", 0, "memory: 0 is not allowed; allowed: at least 1"),
        bad("dataset.layout", "mixed", "dataset.layout: 'mixed' is not allowed; allowed: one of disjoint, shared"),
        bad("colour", "red", "colour: unknown key; allowed: completeness, crate, dataset, dcm"),
        bad("plan.0.hue", 3, "plan.0.hue: unknown key; allowed: exclude, function, group"),
        bad("run", "a b/c", "run: 'a b/c' is not allowed; allowed: text of the form"),
        bad("models.tuned.base", "bse", "models.tuned.base: unknown model 'bse'; allowed: null, base"),
        bad("models.tuned.base", None, "models: 2 have no base (base, tuned); exactly one must be the base"),
        bad("plan.1.receiver", "C", "plan.1.receiver: unknown group 'C'; allowed: logits, A"),
        bad("plan.0.receiver", "B", "plan.0.receiver: unknown group 'B'; allowed: logits"),
        bad("plan.1.via", None, "plan.1.via: None with receiver 'A'; allowed: q, k, v"),
        bad("plan.0.via", "q", "plan.0.via: 'q' with receiver 'logits'; allowed: null"),
        bad("plan.0.exclude", ["D"], "plan.0.exclude: unknown group 'D'; allowed: B"),
        bad("plan.0.per_model", {"goat": {"keep": 3}}, "plan.0.per_model: unknown model 'goat'; allowed: base, tuned"),
        bad("plan.1.group", "logits", "plan.1.group: 'logits' is taken; allowed: a name of its own, not logits"),
        bad("plan.0.keep", 7, "plan.0.keep: 7 for base; allowed: at most its 6 heads"),
        bad("plan.0.keep", 2.5, "plan.0.keep: 2.5 for base; allowed: a whole number of heads, or a share of them"),
        bad("plan.0.keep", 0, "plan.0.keep: 0 is not allowed; allowed: more than 0"),
        bad("plan.0.receivers", 9, "plan.0.receivers: 9 for base; allowed: at most its 6 heads"),
        bad("plan.0.receivers", None, "plan.0.receivers: null, but a later group is sent to 'A'"),
        bad("plan.1.group", "A", "plan.1.group: 'A' is taken; allowed: a name of its own, not logits"),
        bad("minimality.per_model", {"goat": 0}, "minimality.per_model: unknown model 'goat'; allowed: base, tuned"),
        bad("task.boxes", 13, "task.boxes: 13 is not allowed; allowed: at most 12"),
        bad(
            "models.tuned.path", "x" * 300, "models.tuned.path: '" + "x" * 99 + "… cannot be read (File name too long)"
        ),
        bad("models.tuned.tokenizer", "x" * 300, "models.tuned.tokenizer: '" + "x" * 99 + "… cannot be read"),
        bad(
            "models.tuned.path",
            "x/" * 501,
            "models.tuned.path: '" + "x/" * 49 + "x… is not allowed; allowed: at most 1000",
        ),
        bad("models.tuned.revision", "../main", "models.tuned.revision: '../main' is not allowed; allowed: text of"),
        bad("minimality.threshold", 2**63, "minimality.threshold: a whole number of more than 63 bits; allowed:"),
        bad("col\u200bour", 1, r"'col\u200bour': unknown key; allowed: "),
        bad("planted", "none.yaml", "planted: none.yaml: cannot be read (No such file"),
        bad("planted", "config", "planted: config: cannot be read (it is no file)"),
        bad("planted", str(OBJECTS_FILE), f"planted: {OBJECTS_FILE} declares no planted heads; allowed: a family file"),
        bad("minimality.threshold", float("nan"), "minimality.threshold: nan is not allowed; allowed: a finite number"),
        bad("completeness.per_model", {"goat": 3}, "completeness.per_model: unknown model 'goat'; allowed: base"),
        bad("dcm.learning_rate", 0, "dcm.learning_rate: 0 is not allowed; allowed: more than 0"),
        bad("dcm.sparsity", [], "dcm.sparsity: [] is not allowed; allowed: at least 1 entry"),
        bad(
            "plan.0.function",
            "value",
            "plan.0.function: 'value' is not allowed; allowed: one of object, label",
        ),
        bad("models.tuned.paper", "Llama", "models.tuned.paper: 'Llama' is not allowed; allowed: one of Llama-7B"),
        bad("models.tuned.adapter", True, "models.tuned.adapter: true, but"),
        bad("models.tuned.hub", "a/b", "models.tuned: has both path and hub; allowed: one of them"),
        bad("models.tuned.path", None, "models.tuned: has neither path nor hub; allowed: one of them"),
        bad("models.tuned.hub", "a b", "models.tuned.hub: 'a b' is not allowed; allowed: text of the form"),
        bad("models.tuned.revision", "main", "models.tuned.revision: 'main' of a folder; allowed: null, it is for hub"),
        bad(
            "models.tuned.dtype", "int8", "models.tuned.dtype: 'int8' is not allowed; allowed: one of float32, bfloat16"
        ),
        bad("models.tuned.device", "gpu", "models.tuned.device: 'gpu' is not allowed; allowed: text of the form"),
        bad(
            "models.tuned.device",
            {"lm_head": "gpu"},
            "models.tuned.device.lm_head: 'gpu' is not allowed; allowed: text",
        ),
        bad(
            "models.tuned.tokenizer",
            "config",
            "models.tuned.tokenizer: config has no tokenizer.json; allowed: a folder",
        ),
        bad("models.base.adapter", True, "models.base.adapter: true, but it has no base; allowed: false"),
        bad("plan.0.position", "query_label", "plan.0.position: 'query_label' never reaches the logits; allowed: last"),
        bad("plan.1.position", "query_label", "plan.1.position: 'query_label' with via q; allowed: last"),
        bad(
            "plan.0.position",
            "correct_object",
            "plan.0.position: 'correct_object' is not allowed",
        ),
    ],
)
def test_one_line_names_the_key_the_value_and_what_is_allowed(config, key, value, expected):
    *path, last = key.split(".")
    at = config
    for part in path:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[last] = value
    with pytest.raises(InputError) as caught:
        checked(config)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


# Free text that readers of tables take for nothing or for a number, or in which there is nothing to see.
NO_TEXT = ["NA", "n/a", "#N/A", "<NA>", "null", "None", "TRUE", " NaN ", "007", "1e5", "-inf", ".5", "1.#IND", "+1"]
NO_TEXT += ["", " ", "\u200b", "\ufeff\xad", "\u0301", "\u3164", "\u2800 \u200d", "\ue000"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("run", name) for name in (*TAKEN_RUNS, "Family", "r\n", "x" * 65, "", "a/b", "..", "é")),
        *(("model", name) for name in ("points", "POINTS", "x.record", "X.Record", "base", "BASE", "m\n", "m" * 65)),
        *(("model", name) for name in ("007", "1e3", "1.", "NA", "nan", "Null", "none", "True", "Infinity", ".x")),
        *(("group", name) for name in ("random", "circuit", "Logits", "a", "A\n", "1", "NA", "inf", "g" * 65, "A.0")),
        *(("path", path) for path in ("", " ", "a{b}", "{a}", "a\n", " a", "a ", "a\tb", "a\0b", "a\ud800")),
        *(("tokenizer", path) for path in ("", "{x}", "a\n", "results/family/seed1/mini-goat")),
        *(("objects", path) for path in ("", "{x}", "a\n", "none.txt", ".")),
        *(("planted", path) for path in ("", "{x}", "a\n", "none.yaml", ".")),
        ("path", "results/family/mini-float"),
        ("path", "./results//family/seed1/mini-flote"),
        ("path", "results/family/seedx/mini-float"),
        ("path", "results/family/seed1/mini-goat"),  # an adapter, and not said so
        ("path", "results/family/seed1/mini-float/"),  # allowed, see below
        *(("name", text) for text in ("bell\x07", "half \ud800", "\ufdd0", "end \U0010ffff", *NO_TEXT)),
        *(("fine_tuned_on", text) for text in ("NA", "1e5", "\u200b")),
        *(("agent", text) for text in ("null", "007", "")),
    ],
)
def test_names_and_paths_that_cannot_be_kept_are_refused_in_one_line(config, key, value):
    accepted = value.startswith("results/family/seed1/mini-float")
    match key:
        case "run":
            config["run"] = value
        case "model":
            config["models"] |= {value: {"path": "not there yet", "base": "base"}, "x": {"path": "y", "base": "base"}}
            if value == "base":
                config["models"]["Base"] = config["models"]["tuned"]
        case "group" | "name":
            config["plan"][1][key] = value
        case "fine_tuned_on":
            config["models"]["tuned"][key] = value
        case "agent":
            config["crate"] = {"agent": {"name": value, "url": "https://a.example"}}
        case "path" | "tokenizer":
            config["models"]["tuned"] = {"path": "not there yet", "base": "base"} | {key: value}
        case "objects":
            config["task"]["objects"] = value
        case "planted":
            config["planted"] = value
    if accepted:
        assert checked(config)["models"]["tuned"]["path"] == value.rstrip("/")
        return
    with pytest.raises(InputError) as caught:
        checked(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["7b", "1_000", "2024-01-01", "0x10", "x.scores", "x.0", "a--b", "NAN-7B", "N", "T"])
def test_a_name_that_is_accepted_is_read_from_a_table_as_it_is_written(config, name):
    config["models"] = {name: config["models"]["base"]}
    assert list(checked(config)["models"]) == [name]
    read = pd.read_csv(io.StringIO(pd.DataFrame({"model": [name]}).to_csv(index=False)))
    assert read["model"].tolist() == [name]


@pytest.mark.parametrize("text", sorted(STR_NA_VALUES))
def test_every_text_that_pandas_takes_for_nothing_is_refused(config, text):
    refused = "is not allowed; allowed: text that can be seen, and that no reader of tables takes for"
    config["plan"][0]["name"] = text
    with pytest.raises(InputError, match=rf"^plan\.0\.name: {re.escape(repr(text))} {refused}"):
        checked(config)
    del config["plan"]
    config["models"] = {text: {"path": "not there yet"}}
    with pytest.raises(InputError, match=r"^models: "):
        checked(config)


AS_VALUES = strategies.text("0123456789.+-_eExX#/<>naNAifINFtrueTRUE \"',%;é１", min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(AS_VALUES | strategies.text(min_size=1, max_size=5))
def test_free_text_that_is_accepted_is_read_from_a_table_as_it_is_written(text):
    model = {"path": "not there yet", "fine_tuned_on": text}
    try:
        written = checked({"run": "r", "models": {"base": model}})["models"]["base"]["fine_tuned_on"]
    except InputError as error:
        assert str(error).startswith("models.base.fine_tuned_on: ")
        return
    read = pd.read_csv(io.StringIO(pd.DataFrame({"text": [written]}).to_csv(index=False)))
    assert read["text"].tolist() == [written]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["plan"][0].update(per_model={"goat": {"keep": 1}}),
        lambda config: config["plan"][0].update(receiver="x" * 10**6),
        lambda config: config["plan"][-1].update(receiver="G_of_many_groups_0x"),
        lambda config: config["plan"][0].update(exclude=["x" * 10**6]),
        lambda config: config["plan"][0].update(group="g_OF_many_groups_49"),
        lambda config: config.update(minimality={"per_model": {"goat": 0}}),
        lambda config: config["models"]["m_of_many_models_7"].update(base="goat"),
        lambda config: config["models"].update(M_of_many_models_49={"path": "m", "base": "base"}),
        lambda config: [model.update(base=None) for model in config["models"].values()],
    ],
)
def test_of_many_names_a_line_has_few(config, change):
    config["models"] |= {f"m_of_many_models_{i}": {"path": "not there yet", "base": "base"} for i in range(50)}
    send = {"name": "Send", "position": "last", "receiver": "A", "via": "q", "keep": 1}
    config["plan"] += [send | {"group": f"G_of_many_groups_{i}"} for i in range(50)]
    assert len(checked(config)["models"]) == 52
    change(config)
    with pytest.raises(InputError) as caught:
        checked(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 10**30),
        ("dataset.rows.discovery", 10**12),
        ("desiderata.rows.test", 10**12),
        ("evaluation.resamples", 10**12),
        ("shards.path_patching", 10**9),
        ("memory", 10**30),
        ("run", "x" * 10**6),
        ("crate.license", "https://a b"),
        ("crate.license", "https://a\n"),
    ],
)
def test_what_no_machine_could_do_is_refused_at_once(config, key, value):
    *path, last = key.split(".")
    at = config
    for part in path:
        at = at.setdefault(part, {})
    at[last] = value
    with pytest.raises(InputError) as caught:
        checked(config)
    assert str(caught.value).startswith(f"{key}: ") and len(str(caught.value)) < 300


def test_what_the_product_ships_is_found_beside_it_and_what_a_config_names_where_it_is_used(
    config, tmp_path, monkeypatch
):
    del config["task"]
    monkeypatch.chdir(ROOT)
    assert checked(config)["task"]["objects"] == OBJECT_LIST, "as the default run records it"
    monkeypatch.chdir(ROOT.parent)
    assert checked(config)["task"]["objects"] == f"{ROOT.name}/{OBJECT_LIST}"
    monkeypatch.chdir(tmp_path)
    assert checked(config)["task"]["objects"] == str(ROOT / OBJECT_LIST)
    config["models"]["tuned"]["path"] = "./mine//tuned/"
    assert checked(config)["models"]["tuned"]["path"] == "mine/tuned"
    shipped_config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    models = checked(shipped_config, shipped("."))["models"]
    assert models["mini-llama"]["path"] == str(ROOT / "resources" / "models" / "mini-llama")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("planted: {A: [[0, 1], [0, 1]]}", "planted.A: [[0, 1], [0, 1]]; allowed: pairs of layer and head"),
        ("planted: {A: [[0]]}", "planted.A: [[0]]; allowed: pairs"),
        ("planted: {A: [[0, true]]}", "planted.A: [[0, True]]; allowed: pairs"),
        ("planted: {A: [[-1, 0]]}", "planted.A: [[-1, 0]]; allowed: pairs"),
        (f"planted: {{A: [[0, {2**31}]]}}", f"planted.A: [[0, {2**31}]]; allowed: pairs"),
        ("planted: {A: [[0, 1.0]]}", "planted.A: [[0, 1.0]]; allowed: pairs"),
        ("planted: {A: L0 H1}", "planted.A: 'L0 H1'; allowed: pairs"),
        ("planted: {1: [[0, 1]]}", "planted.1: [[0, 1]]; allowed: pairs"),
        (f"planted: {{A: [{'[0, 1], ' * 1000}]}}", "planted.A: [[0, 1], [0, 1]"),
        ("planted: {A: [[2, 0]]}", "A: [2, 0] is not in "),
        ("planted: {A: [[0, 3]]}", "A: [0, 3] is not in "),
        ("planted: [A]", "declares no planted heads; allowed: a family file, or null"),
        ("planted: null", "declares no planted heads"),
        ("heads: {A: [[0, 1]]}", "declares no planted heads"),
        ("[planted]", "declares no planted heads"),
        ("planted: {A: [[0, 1]]", "allowed: YAML or JSON"),
        ("planted: {A: [], A: []}", "the key 'A' stands twice"),
        ("\xff", "byte 0 is no UTF-8"),
        ("", "declares no planted heads"),
    ],
)
def test_a_damaged_family_file_is_refused_in_one_line(config, tmp_path, text, told):
    file = tmp_path / "family.yaml"
    file.write_bytes(text.encode("latin-1"))
    config["planted"] = str(file)
    with pytest.raises(InputError) as caught:
        checked(config)
    line = str(caught.value)
    assert line.startswith("planted: ") and told in line and "\n" not in line and len(line) < 500


def test_a_family_file_may_plant_any_head_there_is(config, tmp_path):
    (tmp_path / "family.yaml").write_text("planted: {A: [[0, 0], [1, 2]], B: []}")
    config["planted"] = str(tmp_path / "family.yaml")
    assert checked(config)["planted"] == config["planted"]
    assert read_planted(config["planted"]) == {"A": [[0, 0], [1, 2]], "B": []}


def test_missing_checkpoints_are_named_all_of_them(config):
    """A plan can be made without them, so the config alone is no error."""
    config["models"]["tuned"]["path"] = "nowhere"
    config["models"]["other"] = {"path": "neither", "base": "base", "adapter": True}
    config["models"]["made"] = {"path": "results/family/seed7/mini-float", "base": "base"}
    assert missing_checkpoints(checked(config)) == [
        "models.tuned.path: no folder 'nowhere'; allowed: a folder with config.json, model.safetensors",
        "models.other.path: no folder 'neither'; allowed: a folder with adapter_config.json, adapter_model.safetensors",
    ]


def test_the_papers_config_has_every_setting_of_the_paper():
    filled = checked(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    paper = published(ROOT / "resources/paper.yaml")
    for name, model in filled["models"].items():
        counts = [entry["keep"] for entry in plan_for(filled, name)]
        if model["paper"] in paper["heads"]:
            assert counts == [group["candidates"] for group in paper["heads"][model["paper"]].values()]
            assert random_subsets_for(filled, name) == paper["completeness"][model["paper"]]["random"]["subsets"]
        assert model["fine_tuned_on"] == (paper["models"][model["paper"]] or "–")
    assert [entry["name"] for entry in filled["plan"]] == [group["name"] for group in paper["groups"].values()]
    assert filled["evaluation"]["random_circuits"] == paper["random_circuits"]
    receivers = {"llama-7b": [20, 5, 10, None], "goat-7b": [50, 20, 30, None], "float-7b": [50, 20, 30, None]}
    for name, wanted in receivers.items():
        assert [entry["receivers"] for entry in plan_for(filled, name)] == wanted


def test_groups_cannot_exclude_themselves_by_way_of_others(config):
    config["plan"].append(config["plan"][1] | {"group": "C"})
    for entry, excluded in zip(config["plan"], "BCA", strict=True):
        entry["exclude"] = [excluded]
    with pytest.raises(InputError, match=r"plan\.0\.exclude: 'A' excludes itself by way of others; allowed: no circle"):
        checked(config)


@pytest.mark.parametrize("at", ["", "task", "models"])
def test_a_name_of_two_lines_is_told_in_one(config, at):
    (config[at] if at else config)["a\nb"] = float("nan")
    with pytest.raises(InputError) as caught:
        checked(config)
    assert "\n" not in str(caught.value)


def test_names_that_yaml_reads_as_numbers_are_refused(config):
    config["models"][7] = {"path": "x", "base": "base"}
    with pytest.raises(InputError, match=r"^models\.7: the name 7 is no text"):
        checked(config)


def test_one_meaning_has_one_form(config):
    """Else a config that says the same would rerun jobs: Snakemake compares the text of parameters."""
    again = {"memory": 4e9, "seed": 20, **dict(reversed(config.items()))}
    again["dataset"] = {"rows": {"means": 500.0}, "layout": "disjoint"}
    assert repr(checked(again)) == repr(checked(config))


def test_an_adapter_must_be_on_the_base_it_is_listed_under(config, folder):
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder / "base")})
    )
    (adapter / "adapter_model.safetensors").touch()
    config["models"]["tuned"] = {"path": str(adapter), "base": "base", "adapter": True}
    tuned = checkpoint(checked(config), "tuned")
    assert tuned.adapter and tuned.whole == checkpoint(checked(config), "base")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder / "deeper")}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"^models\.tuned\.base: .*adapter is an adapter on .*deeper"):
        checked(config)
    config["models"]["base"]["path"] = "results/family/seed9/mini-llama"  # to be trained, and not the adapter's base
    with pytest.raises(InputError, match=r"^models\.tuned\.base: .*adapter is an adapter on .*deeper"):
        checked(config)
    config["models"]["base"]["path"] = str(folder / "base")
    del config["models"]["tuned"]["adapter"]
    with pytest.raises(InputError, match=r"^models\.tuned\.adapter: false, but .*adapter says otherwise"):
        checked(config)


def test_a_missing_key_is_named(config):
    del config["plan"][0]["keep"]
    with pytest.raises(InputError, match=r"^plan\.0\.keep: missing key"):
        checked(config)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("three.txt", "task.objects: 3 objects for task.boxes = 7; allowed: at least 7"),
        ("twice.txt", "'apple' stands there twice"),
        ("none.txt", "none.txt: cannot be read"),
        ("folder", "folder: cannot be read (it is no file)"),
        ("latin.txt", "byte 3 is no UTF-8; allowed: text saved as UTF-8"),
        ("utf16.txt", "byte 0 is no UTF-8; allowed: text saved as UTF-8"),
        ("hidden.txt", "line 2: 'bo\\u200bok' is not all visible"),
        ("tab.txt", "line 1: 'apple\\t1' is not all visible"),
        ("marked.txt", "line 2: '\\ufeffbook' is not all visible"),
        ("forms.txt", "'café' stands there twice"),
        ("empty.txt", "task.objects: 0 objects for task.boxes = 7; allowed: at least 7"),
    ],
)
def test_object_files_that_do_not_do(config, folder, file, expected):
    config["task"]["objects"] = str(folder / file)
    with pytest.raises(InputError) as caught:
        checked(config)
    assert expected in str(caught.value)


def test_fewer_usable_objects_than_boxes(config, folder):
    config["models"] = {"base": {"path": str(folder / "few")}}
    with pytest.raises(InputError, match=r"^task\.boxes: 7 need at least 7 objects, only 5 are usable"):
        checked(config)


def test_a_fine_tuned_model_of_another_shape(config, folder):
    config["models"]["tuned"]["path"] = str(folder / "deeper")
    with pytest.raises(InputError) as caught:
        checked(config)
    assert str(caught.value) == (
        f"models.tuned.path: {folder / 'deeper'} has 3 layers x 3 heads of dimension 4, width 12;"
        " allowed: those of its base, 2 layers x 3 heads of dimension 4, width 12"
    )


def test_every_key_of_the_schema_has_a_description_and_a_default_or_is_required():
    def visit(schema: dict, path: str) -> None:
        for key, part in schema.get("properties", {}).items():
            assert part.get("description"), f"{path}{key} has no description"
            optional_override = path.endswith("per_model.*.")
            assert "default" in part or key in schema.get("required", ()) or optional_override, f"{path}{key}"
            visit(part, f"{path}{key}.")
        if schema.get("type") == "object" and "properties" in schema:
            assert schema.get("additionalProperties") is False, f"{path} lets unknown keys pass"
        if isinstance(schema.get("additionalProperties"), dict):
            visit(schema["additionalProperties"], f"{path}*.")
        if "items" in schema:
            visit(schema["items"], f"{path}*.")

    visit(yaml.safe_load(SCHEMA.read_text()), "")


@pytest.mark.parametrize("name", ["config.yaml", "test.yaml"])
def test_shipped_configs_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config" / name).read_text())
    assert checked(copy.deepcopy(config))["run"] == config["run"]


@pytest.mark.parametrize("form", ["{}", "\ufeff{}", "  {}  "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_object_lists_as_editors_save_them_are_the_same_words(tmp_path, form, end):
    text = form.format(f"apple{end}{end}book {end}Apple")
    (tmp_path / "o.txt").write_bytes(text.encode("utf-8"))
    assert read_objects(tmp_path / "o.txt") == ["apple", "book", "Apple"]


def test_the_object_list_is_the_hundred_it_says():
    assert len(read_objects(ROOT / "config" / "objects.txt")) == 100


def test_excluded_heads_are_not_there_to_be_kept(config):
    config["plan"][0] |= {"keep": 5, "exclude": ["B"]}
    with pytest.raises(InputError, match=r"^plan\.0\.keep: 5 for base; allowed: at most 4, 2 of 6 heads are excluded"):
        checked(config)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_with_its_key(config, folder, tmp_path, file):
    shutil.copytree(folder / "base", tmp_path / "part")
    (tmp_path / "part" / file).unlink()
    config["models"]["tuned"]["path"] = str(tmp_path / "part")
    with pytest.raises(InputError, match=rf"^models\.tuned\.path: .*part has no {file}"):
        checked(config)


def test_a_base_has_a_tokenizer_and_a_fine_tuned_model_may_use_it(config, folder, tmp_path):
    shutil.copytree(folder / "base", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    config["models"]["tuned"]["path"] = str(tmp_path / "bare")
    assert tokenizer_folder(checkpoint(checked(config), "tuned")) == folder / "base"
    config["models"] = {"base": {"path": str(tmp_path / "bare")}}
    with pytest.raises(
        InputError, match=r"^models\.base\.path: .*bare has no tokenizer\.json; allowed: a folder that has"
    ):
        checked(config)
    config["models"]["base"]["tokenizer"] = str(folder / "base")
    assert tokenizer_folder(checkpoint(checked(config), "base")) == folder / "base"


def test_dtype_and_device_are_the_bases_unless_said_and_an_adapters_always(config, folder):
    config["models"]["base"] |= {"dtype": "bfloat16", "device": "cuda:1"}
    config["models"]["tuned"]["dtype"] = "float16"
    filled = checked(config)
    assert [checkpoint(filled, name).dtype for name in ("base", "tuned")] == ["bfloat16", "float16"]
    assert checkpoint(filled, "tuned").device == "cuda:1"
    config["models"]["tuned"] |= {"path": "not there yet", "adapter": True}
    with pytest.raises(InputError) as caught:
        checked(config)
    assert str(caught.value) == "models.tuned.dtype: 'float16' for an adapter; allowed: null, its base's 'bfloat16'"
    del config["models"]["tuned"]["dtype"]
    assert checkpoint(checked(config), "tuned").dtype == "bfloat16"


def test_a_model_of_the_hub_is_refused_without_a_commit_and_the_line_to_add_is_given(config, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config["models"]["tuned"] = {"hub": "owner/name", "base": "base"}
    unknown = "40 hex digits, see https://huggingface.co/owner/name/commits"
    for revision in (None, "main"):
        config["models"]["tuned"]["revision"] = revision
        with pytest.raises(InputError) as caught:
            checked(config)
        line = f"models.tuned.revision: {revision!r} pins no commit of owner/name; allowed: "
        assert str(caught.value) == line + unknown
    (tmp_path / "models--owner--name" / "refs").mkdir(parents=True)
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("a1" * 20)
    with pytest.raises(InputError) as caught:
        checked(config)
    assert str(caught.value) == f"{line}this line: revision: {'a1' * 20}"
    config["models"]["tuned"]["revision"] = "a1" * 20
    filled = checked(config)
    assert checkpoint(filled, "tuned").path == f"results/checkpoints/owner--name/{'a1' * 20}"
    assert missing_checkpoints(filled) == [], "a rule fetches it"


def test_shares_of_the_heads_are_counts_where_the_heads_are_known(config):
    config["plan"][0] |= {"keep": 0.7, "receivers": 0.01, "exclude": ["B"]}
    config["plan"][1]["keep"] = 0.3
    assert checked(config)["plan"][0]["keep"] == 0.7, "4 of 6 heads, and 2 of them are passed over"
    assert [head_count(wanted, 6) for wanted in (0.7, 0.01, 3, 1.0)] == [4, 1, 3, 1]
    config["plan"][1]["keep"] = 0.5
    with pytest.raises(
        InputError, match=r"^plan\.0\.keep: 0\.7 for base; allowed: at most 3, 3 of 6 heads are excluded"
    ):
        checked(config)


def test_the_default_plan_is_the_papers_with_its_counts_as_shares(config):
    del config["plan"]
    filled, paper = checked(config)["plan"], checked(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))["plan"]
    for entry, of_paper in zip(filled, paper, strict=True):
        counts = of_paper["per_model"]["goat-7b"]
        for key, share in ((key, entry.pop(key)) for key in ("keep", "receivers")):
            assert share == (counts.get(key) and round(counts[key] / 1024, 2)), key
        assert entry == {key: value for key, value in of_paper.items() if key in entry} | {"per_model": {}}


def test_the_tolerance_of_the_null_patch_is_one_for_each_dtype(config):
    assert checked(config)["null_patch_tolerance"] == {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}


ORDER = ["previous_query_label", "query_label", "last"]


def test_the_positions_of_a_plan_stand_in_the_order_that_is_stated_in_every_prompt(task):
    assert [place.value for place in PLACES] == ORDER
    allowed = yaml.safe_load(SCHEMA.read_text())["properties"]["plan"]["items"]["properties"]["position"]["enum"]
    assert set(allowed) == set(ORDER)
    for table in build_dataset(task, dict.fromkeys(SPLITS, 20), 0).values():
        places = table[[place.column for place in PLACES]].dropna()
        assert (places.diff(axis=1).iloc[:, 1:] > 0).all(axis=None) and len(places)


@pytest.mark.parametrize("via", ["k", "v"])
@pytest.mark.parametrize("there", ORDER)
@pytest.mark.parametrize("position", ORDER)
def test_keys_and_values_are_sent_from_the_receivers_token_or_an_earlier_one(config, via, there, position):
    chain = [("B", "A", "last"), ("C", "B", there), ("D", "C", position)]
    send = {"name": "Send", "via": via, "keep": 2, "receivers": 1}
    config["plan"][1:] = [send | {"group": g, "receiver": r, "position": p} for g, r, p in chain]
    if ORDER.index(position) <= ORDER.index(there):
        assert checked(config)["plan"][3]["position"] == position, "a head attends to its own token too"
        return
    with pytest.raises(InputError) as caught:
        checked(config)
    allowed = ", ".join(ORDER[: ORDER.index(there) + 1])
    assert str(caught.value).startswith(f"plan.3.position: {position!r} comes after {there!r}")
    assert str(caught.value).endswith(f"; allowed: {allowed}")
