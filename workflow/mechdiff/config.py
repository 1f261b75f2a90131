"""The configuration: read, checked as a whole before anything runs, defaults filled in.

The schema (workflow/schemas/config.schema.yaml) says what each key means. What a schema cannot say is checked here:
that names refer to something, that no k is larger than the number of heads, that enough objects are left for the
boxes, and that a fine-tuned model has the shape of its base. Checkpoints that are not on disk yet (a rule may make
them) are checked when they are opened.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from mechdiff.checkpoints import adapter_base, is_adapter, own_files, read_shape, read_tokenizer, require_same_shape
from mechdiff.errors import InputError
from mechdiff.task import BoxTask

LOGITS = "logits"  # the receiver of the first step of a plan
MADE_HERE = "results/family/"  # where rules put the models that they train
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
    _check_models(filled)
    _check_plan(filled)
    _check_per_model(filled)
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


def adapter_on(config: Mapping[str, Any], model: str) -> str | None:
    """The folder of the base that an adapter is opened on; None for a whole checkpoint."""
    return config["models"][base_model(config)]["path"] if config["models"][model]["adapter"] else None


def missing_checkpoints(config: Mapping[str, Any]) -> list[str]:
    """A line for each model whose folder is not there and that no rule makes: a run would stop at them."""
    lines = []
    for name, model in config["models"].items():
        path = model["path"]
        if not path.startswith(MADE_HERE) and not Path(path).is_dir():
            files = ", ".join(Path(file).name for file in own_files(path, model["adapter"]))
            lines.append(f"models.{name}.path: no folder {path!r}; allowed: a folder with {files}")
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
        "minItems": lambda v: f"at least {v} entry",
        "minProperties": lambda v: f"at least {v} entry",
    }.get(error.validator, lambda v: error.message)(error.validator_value)
    return f"{key or 'config'}: {error.instance!r} is not allowed; allowed: {allowed}"


def _with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value with its defaults, keys in the schema's order and whole numbers as int: one form for one meaning."""
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
    if isinstance(value, float) and "integer" in schema.get("type", ()):
        return int(value)  # 300.0 is an integer to JSON schema
    return value


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
    if len(bases) != 1:
        raise InputError(f"models: {len(bases)} have no base ({', '.join(bases)}); exactly one must be the base")
    base_path = models[bases[0]]["path"]
    if models[bases[0]]["adapter"]:
        raise InputError(f"models.{bases[0]}.adapter: true, but it has no base; allowed: false")
    for name, model in models.items():
        path, made = model["path"], model["path"].startswith(MADE_HERE)
        if made or not Path(path).is_dir():
            continue
        if is_adapter(path) != model["adapter"]:
            raise InputError(f"models.{name}.adapter: {str(model['adapter']).lower()}, but {path} says otherwise")
        for file in own_files(path, model["adapter"]):
            if not Path(file).is_file():
                raise InputError(f"models.{name}.path: {path} has no {Path(file).name}; allowed: a folder that has")
        if model["adapter"] and is_adapter(path):
            named = adapter_base(path)
            if named.is_dir() and not (Path(base_path).is_dir() and named.samefile(base_path)):
                raise InputError(f"models.{name}.base: {path} is an adapter on {named}; allowed: that folder's model")
        if not model["adapter"] and _present(path) and _present(base_path):
            require_same_shape(name, path, base_path)


def _check_plan(config: Mapping[str, Any]) -> None:
    models, plan = config["models"], config["plan"]
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
            if name not in models:
                raise InputError(f"{key}.per_model: unknown model {name!r}; allowed: {', '.join(models)}")
        if entry["receiver"] == LOGITS and entry["position"] != "last":
            raise InputError(f"{key}.position: {entry['position']!r} never reaches the logits; allowed: last")
        if entry["via"] == "q" and entry["position"] != plan[groups.index(entry["receiver"])]["position"]:
            there = plan[groups.index(entry["receiver"])]["position"]
            raise InputError(f"{key}.position: {entry['position']!r} with via q; allowed: {there}, where they ask")
    _check_exclusions(plan)
    present = _present(models[base_model(config)]["path"])
    for name in models:
        own_plan = plan_for(config, name)
        for i, entry in enumerate(own_plan):
            receives = any(other["receiver"] == entry["group"] for other in plan)
            if receives and entry["receivers"] is None:
                raise InputError(f"plan.{i}.receivers: null, but a later group is sent to {entry['group']!r}")
            if present:
                heads = (shape := read_shape(models[base_model(config)]["path"])).layers * shape.heads
                for k in ("keep", "receivers"):
                    if (entry[k] or 0) > heads:
                        raise InputError(f"plan.{i}.{k}: {entry[k]} for {name}; allowed: at most its {heads} heads")
                passed_over = sum(other["keep"] for other in own_plan if other["group"] in entry["exclude"])
                if entry["keep"] + passed_over > heads:
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


def _check_task(config: Mapping[str, Any]) -> None:
    objects = read_objects(config["task"]["objects"])
    boxes = config["task"]["boxes"]
    if len(objects) < boxes:
        raise InputError(f"task.objects: {len(objects)} objects for task.boxes = {boxes}; allowed: at least {boxes}")
    path = config["models"][base_model(config)]["path"]
    if _present(path):
        task = BoxTask(read_tokenizer(path), boxes, objects)
        for kind, usable in (("objects", task.objects), ("labels", task.labels)):
            if len(usable) < 2 * boxes + 1:  # two scenes of a desideratum share none, one may have a box more
                allowed = f"at most {(len(usable) - 1) // 2}, {len(usable)} {kind} are usable with this tokenizer"
                raise InputError(f"task.boxes: {boxes} is not allowed; allowed: {allowed}")
    if config["planted"] is not None:
        read_planted(config["planted"])


def _present(path: str) -> bool:
    return (Path(path) / "config.json").exists()
