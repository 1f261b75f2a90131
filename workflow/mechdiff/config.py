"""The configuration: read, checked as a whole before anything runs, defaults filled in.

The schema (workflow/schemas/config.schema.yaml) says what each key means. What a schema cannot say is checked here:
that names refer to something, that no k is larger than the number of heads, that enough objects are left for the
boxes, that a model of the hub is pinned to a commit, and that a fine-tuned model has the shape of its base.
Checkpoints that are not on disk yet (a rule may make or fetch them) are checked when they are opened.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from mechdiff.checkpoints import (
    CONFIG,
    Checkpoint,
    read_shape,
    read_tokenizer,
    require_checkpoint,
    require_files,
    tokenizer_folder,
)
from mechdiff.errors import InputError
from mechdiff.heads import head_count
from mechdiff.hub import fetched_folder, latest_commit
from mechdiff.shards import most_shards
from mechdiff.task import BoxTask
from mechdiff.text import UNWRITABLE

LOGITS = "logits"  # the receiver of the first step of a plan
FREE_TEXT = "text"  # the schema's format of text that pages show and nothing else reads
MADE_HERE = "results/family/"  # where rules put the models that they train
COMMIT = re.compile("[0-9a-f]{40}")
SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "config.schema.yaml"


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every default filled in; InputError with one line that names key, value and what is allowed."""
    schema = yaml.safe_load(SCHEMA.read_text())
    filled = copy.deepcopy(dict(config))
    _check_names_and_numbers(filled)
    problems = sorted(jsonschema.Draft202012Validator(schema).iter_errors(filled), key=lambda e: list(map(str, e.path)))
    if problems:
        raise InputError(_explain(problems[0]))
    filled = _with_defaults(filled, schema)
    _check_characters(filled)
    _check_models(filled)
    _check_plan(filled)
    _check_per_model(filled)
    _check_shards(filled)
    _check_task(filled)
    return filled


def base_model(config: Mapping[str, Any]) -> str:
    """The name of the one base model."""
    return next(name for name, model in config["models"].items() if model["base"] is None)


def read_objects(path: str | Path) -> list[str]:
    """The words of an object file, one a line; InputError when it is missing or repeats a word."""
    try:
        words = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"task.objects: {path}: cannot be read ({error})") from error
    words = [word.strip() for word in words if word.strip()]
    repeated = sorted({word for word in words if words.count(word) > 1})
    if repeated:
        raise InputError(f"task.objects: {path}: {repeated[0]!r} stands there twice, each object may stand once")
    return words


def read_planted(path: str | Path) -> dict[str, list[list[int]]]:
    """Group -> [[layer, head], ...] as a family file declares them."""
    try:
        family = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return {group: [[int(i), int(j)] for i, j in heads] for group, heads in family["planted"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"planted: {path} declares no planted heads; allowed: a family file, or null") from error


def checkpoint(config: Mapping[str, Any], name: str) -> Checkpoint:
    """A model of the config as jobs open it: what it does not say of dtype and device is as in its base."""
    model = config["models"][name]
    base = None if model["base"] is None else checkpoint(config, model["base"])
    return Checkpoint(
        name=name,
        path=model["path"] or fetched_folder(model["hub"], model["revision"]),
        base=base,
        dtype=model["dtype"] or (base.dtype if base else "float32"),
        device=model["device"] or (base.device if base else "cpu"),
        **{key: model[key] for key in ("adapter", "hub", "tokenizer", "allow_pickle", "trust_remote_code")},
    )


def gpus_for(config: Mapping[str, Any], name: str) -> int:
    """How many GPUs a job that runs a model asks for: what the config says, else its base's, else its device's."""
    model, device = config["models"][name], checkpoint(config, name).device
    if model["gpus"] is not None:
        return model["gpus"]
    if model["base"] is not None and device == checkpoint(config, model["base"]).device:
        return gpus_for(config, model["base"])
    places = [device] if isinstance(device, str) else list(device.values())
    numbers = [int(place.partition(":")[2] or 0) for place in places if place == "auto" or place.startswith("cuda")]
    return max(numbers) + 1 if numbers else 0


def missing_checkpoints(config: Mapping[str, Any]) -> list[str]:
    """A line for each model whose folder is not there and that no rule makes: a run would stop at them."""
    lines = []
    for name in config["models"]:
        model = checkpoint(config, name)
        if not _made(model) and not Path(model.path).is_dir():
            try:
                require_files(model)
            except InputError as error:
                lines.append(str(error))
    return lines


def plan_for(config: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """The discovery plan of one model: its own keep and receivers in place."""
    return [
        {key: value for key, value in (entry | entry["per_model"].get(model, {})).items() if key != "per_model"}
        for entry in config["plan"]
    ]


def threshold_for(config: Mapping[str, Any], model: str) -> float:
    """The minimality threshold of one model."""
    return config["minimality"]["per_model"].get(model, config["minimality"]["threshold"])


def random_subsets_for(config: Mapping[str, Any], model: str) -> int:
    """How many random halves of one model's circuit are knocked out for its completeness."""
    return config["completeness"]["per_model"].get(model, config["completeness"]["random_subsets"])


def _explain(error: jsonschema.ValidationError) -> str:
    """One line: key, value, what is allowed."""
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = next(name for name in error.instance if name not in allowed)
        return f"{f'{key}.' if key else ''}{unknown}: unknown key; allowed: {', '.join(allowed)}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{f'{key}.' if key else ''}{missing}: missing key, it has no default"
    allowed = {
        "type": lambda v: f"a value of type {v if isinstance(v, str) else ' or '.join(v)}",
        "enum": lambda v: "one of " + ", ".join("null" if x is None else str(x) for x in v),
        "minimum": lambda v: f"at least {v}",
        "maximum": lambda v: f"at most {v}",
        "exclusiveMinimum": lambda v: f"more than {v}",
        "pattern": lambda v: f"text of the form {v}",
        "maxLength": lambda v: f"at most {v} characters",
        "minItems": lambda v: f"at least {v} entry",
        "minProperties": lambda v: f"at least {v} entry",
    }.get(error.validator, lambda v: error.message)(error.validator_value)
    return f"{key or 'config'}: {error.instance!r} is not allowed; allowed: {allowed}"


def _with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value with its defaults, keys in the schema's order, whole numbers as int and free text with single spaces:
    one form for one meaning."""
    if isinstance(value, dict):
        parts, extra = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {}
        for key, part in parts.items():
            if key in value or "default" in part:
                filled[key] = _with_defaults(value.get(key, copy.deepcopy(part.get("default"))), part)
        others = {key: item for key, item in value.items() if key not in parts}
        return filled | {key: _with_defaults(item, extra) for key, item in others.items()}
    if isinstance(value, list):
        return [_with_defaults(item, schema.get("items", {})) for item in value]
    if isinstance(value, float) and value.is_integer() and "integer" in schema.get("type", ()):
        return int(value)  # 300.0 is an integer to JSON schema
    if isinstance(value, str) and schema.get("format") == FREE_TEXT:
        return " ".join(value.split())
    return value


def _check_characters(value: Any, key: str = "") -> None:
    """Text can be written in every page."""
    for name, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        path = f"{key}.{name}" if key else str(name)
        _check_characters(str(name), path)
        _check_characters(item, path)
    if isinstance(value, str) and (found := UNWRITABLE.search(value)):
        raise InputError(f"{key}: has the character {found[0]!a}; allowed: text without control characters")


def _check_names_and_numbers(value: Any, key: str = "") -> None:
    """Names are text and numbers are finite; YAML allows otherwise."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        path = f"{key}.{name}" if key else str(name)
        if isinstance(value, dict) and not isinstance(name, str):
            raise InputError(f"{path}: the name {name!r} is no text; allowed: text, in quotes if need be")
        _check_names_and_numbers(item, path)
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{key}: {value} is not allowed; allowed: a finite number")


def _check_models(config: Mapping[str, Any]) -> None:
    models = config["models"]
    bases = [name for name, model in models.items() if model["base"] is None]
    for name, model in models.items():
        if model["base"] is not None and model["base"] not in bases:
            raise InputError(f"models.{name}.base: unknown model {model['base']!r}; allowed: null, {', '.join(bases)}")
        _check_source(f"models.{name}", model)
    if len(bases) != 1:
        raise InputError(f"models: {len(bases)} have no base ({', '.join(bases)}); exactly one must be the base")
    if models[bases[0]]["adapter"]:
        raise InputError(f"models.{bases[0]}.adapter: true, but it has no base; allowed: false")
    for name in models:
        model = checkpoint(config, name)
        for key in ("dtype", "device"):
            own, of_base = getattr(model, key), getattr(model.whole, key)
            if own != of_base:
                raise InputError(f"models.{name}.{key}: {own!r} for an adapter; allowed: null, its base's {of_base!r}")
        if Path(model.path).is_dir() and not (_made(model) and model.hub is None):
            require_checkpoint(model)


def _check_source(key: str, model: Mapping[str, Any]) -> None:
    """A model is a folder, or a commit of the hub."""
    path, hub, revision = (model[part] for part in ("path", "hub", "revision"))
    if (path is None) == (hub is None):
        raise InputError(
            f"{key}: has {'neither path nor' if path is None else 'both path and'} hub; allowed: one of them"
        )
    if hub is None and revision is not None:
        raise InputError(f"{key}.revision: {revision!r} of a folder; allowed: null, it is for hub")
    if hub is not None and not COMMIT.fullmatch(revision or ""):
        commit = latest_commit(hub, revision or "main")
        line = (
            f"this line: revision: {commit}" if commit else f"40 hex digits, see https://huggingface.co/{hub}/commits"
        )
        raise InputError(f"{key}.revision: {revision!r} pins no commit of {hub}; allowed: {line}")


def _check_plan(config: Mapping[str, Any]) -> None:
    plan = config["plan"]
    groups = [entry["group"] for entry in plan]
    for i, entry in enumerate(plan):
        key = f"plan.{i}"
        if groups.count(entry["group"]) > 1 or entry["group"] == LOGITS:
            raise InputError(f"{key}.group: {entry['group']!r} is taken; allowed: a name of its own, not {LOGITS}")
        if entry["receiver"] != LOGITS and entry["receiver"] not in groups[:i]:
            earlier = ", ".join([LOGITS, *groups[:i]])
            raise InputError(f"{key}.receiver: unknown group {entry['receiver']!r}; allowed: {earlier}")
        if (entry["receiver"] == LOGITS) != (entry["via"] is None):
            allowed = "null" if entry["receiver"] == LOGITS else "q, k, v"
            raise InputError(f"{key}.via: {entry['via']!r} with receiver {entry['receiver']!r}; allowed: {allowed}")
        for other in entry["exclude"]:
            if other not in groups or other == entry["group"]:
                others = ", ".join(g for g in groups if g != entry["group"])
                raise InputError(f"{key}.exclude: unknown group {other!r}; allowed: {others}")
        for name in entry["per_model"]:
            if name not in config["models"]:
                allowed = ", ".join(config["models"])
                raise InputError(f"{key}.per_model: unknown model {name!r}; allowed: {allowed}")
        if entry["receiver"] == LOGITS and entry["position"] != "last":
            raise InputError(f"{key}.position: {entry['position']!r} never reaches the logits; allowed: last")
        if entry["via"] == "q" and entry["position"] != plan[groups.index(entry["receiver"])]["position"]:
            there = plan[groups.index(entry["receiver"])]["position"]
            raise InputError(f"{key}.position: {entry['position']!r} with via q; allowed: {there}, where they ask")
    _check_exclusions(plan)
    for name in config["models"]:
        _check_counts(config, name)


def _check_counts(config: Mapping[str, Any], name: str) -> None:
    """One model's numbers of heads: counts or shares, and no more than there are."""
    plan, base = plan_for(config, name), checkpoint(config, base_model(config)).path
    shape = read_shape(base) if _present(base) else None
    for i, entry in enumerate(plan):
        for k in ("keep", "receivers"):
            if isinstance(entry[k], float) and entry[k] > 1:
                allowed = "a whole number of heads, or a share of them between 0 and 1"
                raise InputError(f"plan.{i}.{k}: {entry[k]} for {name}; allowed: {allowed}")
        if entry["receivers"] is None and any(other["receiver"] == entry["group"] for other in plan):
            raise InputError(f"plan.{i}.receivers: null, but a later group is sent to {entry['group']!r}")
        if shape is None:
            continue
        heads = shape.layers * shape.heads
        for k in ("keep", "receivers"):
            if (entry[k] or 0) > heads:
                raise InputError(f"plan.{i}.{k}: {entry[k]} for {name}; allowed: at most its {heads} heads")
        passed_over = sum(head_count(other["keep"], heads) for other in plan if other["group"] in entry["exclude"])
        if head_count(entry["keep"], heads) + passed_over > heads:
            left = f"at most {heads - passed_over}, {passed_over} of {heads} heads are excluded"
            raise InputError(f"plan.{i}.keep: {entry['keep']} for {name}; allowed: {left}")


def _check_exclusions(plan: list[dict[str, Any]]) -> None:
    """No group may exclude itself by way of others."""
    excluded = {entry["group"]: entry["exclude"] for entry in plan}
    for i, entry in enumerate(plan):
        reached, waiting = set(), list(entry["exclude"])
        while waiting:
            group = waiting.pop()
            if group == entry["group"]:
                raise InputError(f"plan.{i}.exclude: {group!r} excludes itself by way of others; allowed: no circle")
            if group not in reached:
                reached.add(group)
                waiting += excluded[group]


def _check_per_model(config: Mapping[str, Any]) -> None:
    for key in ("minimality", "completeness"):
        for name in config[key]["per_model"]:
            if name not in config["models"]:
                allowed = ", ".join(config["models"])
                raise InputError(f"{key}.per_model: unknown model {name!r}; allowed: {allowed}")


def _check_shards(config: Mapping[str, Any]) -> None:
    rows, shards = config["dataset"]["rows"], config["shards"]
    most = {"path_patching": most_shards(rows["discovery"]), "minimality": most_shards(rows["minimality"])}
    most["activation_patching"] = config["desiderata"]["sets"]
    for rule, number in shards.items():
        if number > most[rule]:
            raise InputError(f"shards.{rule}: {number} is not allowed; allowed: at most {most[rule]}")


def _check_task(config: Mapping[str, Any]) -> None:
    objects = read_objects(config["task"]["objects"])
    boxes = config["task"]["boxes"]
    if len(objects) < boxes:
        raise InputError(f"task.objects: {len(objects)} objects for task.boxes = {boxes}; allowed: at least {boxes}")
    base = checkpoint(config, base_model(config))
    if _present(base.path):
        task = BoxTask(read_tokenizer(tokenizer_folder(base)), boxes, objects)
        for kind, usable in (("objects", task.objects), ("labels", task.labels)):
            if len(usable) < 2 * boxes + 1:  # two scenes of a desideratum share none, one may have a box more
                allowed = f"at most {(len(usable) - 1) // 2}, {len(usable)} {kind} are usable with this tokenizer"
                raise InputError(f"task.boxes: {boxes} is not allowed; allowed: {allowed}")
    if config["planted"] is not None:
        read_planted(config["planted"])


def _present(path: str | Path) -> bool:
    return (Path(path) / CONFIG).exists()


def _made(model: Checkpoint) -> bool:
    """Whether a rule makes the model's folder: trains it, or fetches it."""
    return model.hub is not None or str(model.path).startswith(MADE_HERE)
