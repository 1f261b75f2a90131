"""Checkpoint folders, read without opening the model: which files count, shape, tokenizer, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from mechdiff.common.errors import InputError

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")  # that tokenizer.json is made of
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one number of each type
PLAIN = {"F64", "F32", "F16", "BF16", "BOOL", "I64"}  # types in safetensors of what is not quantised: numbers and masks
# How families call their number of layers, heads, dimensions and words.
SHAPE_KEYS = (
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("hidden_size", "n_embd"),
    ("vocab_size",),
)
QUANTISED = ("quantization_config", "compression_config")  # keys that say how weights are quantised
# Keys with which whoever wrote a config said how to compute there, or what to return; none says what to compute.
PREFERENCES = frozenset(
    {
        *("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation"),
        *("dtype", "torch_dtype", "use_cache", "gradient_checkpointing", "torchscript", "use_kernels", "device_map"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", *QUANTISED),
    }
)
# Methods that only store weights in another way: beside plain weights nothing is left of them. Others (bitnet, fp8)
# may quantise whatever weights they find, or what goes through them, as the model computes.
STORING = frozenset({"aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "gptq", "hqq", "spqr", "vptq"})
# Ways of beginning an adapter that change the base by what a file does not hold: drawn at random, or made from data or
# with a library that is not here. (pissa and olora make it anew from the base, by a decomposition without chance.)
REFUSED_BEGINNINGS = re.compile(r"(pissa_niter_|corda|lora_ga|loftq).*")
# Settings of an adapter that PEFT knows, but under which there is no one model whose heads are the base's; and why.
REFUSED_SETTINGS = {
    "layer_replication": "heads are compared with the base's by their layer, and these layers are others",
    "alora_invocation_tokens": "such an adapter is in force after these tokens alone, which the prompts do not have",
    "arrow_config": "such an adapter chooses among others, which are not here",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model as jobs open it: one entry of the config's ``models``, with nothing left to be looked up.

    path: folder of a whole checkpoint, or of an adapter, which is opened on its base; hub: the id it is fetched from.
    """

    name: str
    path: str | Path
    base: Checkpoint | None = None
    adapter: bool = False
    hub: str | None = None
    dtype: str = "float32"
    device: str | Mapping[str, str] = "cpu"
    tokenizer: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint from the builtins that a rule gives its script."""
        base = params["base"]
        return cls(**{**params, "base": None if base is None else cls.from_params(base)})

    @property
    def whole(self) -> Checkpoint:
        """The whole checkpoint that the network comes from: an adapter's base, else itself."""
        return self.base if self.adapter and self.base else self


@dataclass(frozen=True)
class Shape:
    """Two models are of one shape when each head of one is there in the other, with outputs as long.

    How many words a model has is no part of that: tokens are compared where prompts are.
    """

    layers: int
    heads: int
    head_dim: int
    width: int
    vocabulary: int = field(compare=False)

    @property
    def of_heads(self) -> str:
        """What is compared."""
        return f"{self.layers} layers x {self.heads} heads of dimension {self.head_dim}, width {self.width}"

    def __str__(self) -> str:
        return f"{self.layers} layers x {self.heads} heads, width {self.width}, vocabulary {self.vocabulary}"


def read_shape(path: str | Path) -> Shape:
    """Shape of a whole checkpoint, from its config alone; of a decoder inside a wrapper, the decoder's."""
    file = Path(path) / CONFIG
    config = read_json(file)
    if not all(any(name in config for name in names) for names in SHAPE_KEYS):
        config = _with_defaults(config)
    found = [next(((name, config[name]) for name in names if name in config), (names[0], None)) for names in SHAPE_KEYS]
    head_dim = config.get("head_dim")
    for name, value in [*found, *([] if head_dim is None else [("head_dim", head_dim)])]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{file}: {name} is {value!r}; allowed: a whole number above 0")
    layers, heads, width, vocabulary = (value for _, value in found)
    if head_dim is None and width % heads:
        raise InputError(f"{file}: {found[2][0]} is {width}; allowed: a multiple of its {heads} heads")
    return Shape(layers, heads, head_dim or width // heads, width, vocabulary)


def known_family(config: Mapping[str, Any]) -> bool:
    """Whether transformers itself has the code of a model with this config."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    return isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES


def _with_defaults(config: dict) -> dict:
    """What a config leaves to its family's defaults, or says of a decoder inside a wrapper."""
    from transformers import AutoConfig

    if not known_family(config):
        return config
    try:
        of_text = AutoConfig.for_model(**plain_settings(config)).get_text_config()
    except Exception:  # each family raises its own
        return config
    names = {names[0]: getattr(of_text, names[0], None) for names in SHAPE_KEYS}
    return names | {"head_dim": getattr(of_text, "head_dim", None)}


def is_adapter(path: str | Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a whole model."""
    return (Path(path) / ADAPTER_CONFIG).exists()


def adapter_base(path: str | Path) -> str | None:
    """The base that an adapter names, a folder or an id of the hub, if it names one."""
    file = Path(path) / ADAPTER_CONFIG
    named = read_json(file).get("base_model_name_or_path")
    if not isinstance(named, str | None):
        raise InputError(f"{file}: base_model_name_or_path is {named!r}; allowed: a folder, an id of the hub, or null")
    return named or None


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, without the padding or truncation that may be stored with it."""
    file = Path(path) / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a readable tokenizer ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Where a model's tokenizer is: in the folder that the config gives, in its own, or in its base's."""
    own = Path(checkpoint.tokenizer or checkpoint.path)
    if checkpoint.tokenizer or not checkpoint.base or (own / TOKENIZER).exists():
        return own
    return tokenizer_folder(checkpoint.base)


def checkpoint_files(checkpoint: Checkpoint) -> list[str]:
    """The files that determine a model: its own, an adapter's base's, the tokenizer's; folders for what is fetched.

    Which tokenizer counts is not known before a model is fetched: its base's is then listed too.
    """
    files = [str(checkpoint.path)] if checkpoint.hub else [str(file) for file in own_files(checkpoint)]
    if checkpoint.adapter:
        files += checkpoint_files(checkpoint.whole)
    return list(dict.fromkeys([*files, *tokenizer_files(checkpoint)]))


def tokenizer_files(checkpoint: Checkpoint) -> list[str]:
    """The files of a model's tokenizer, or the fetched folders that they may be in.

    Its settings are among them where there are some: nothing here reads them, but who uses the model elsewhere does.
    """
    if checkpoint.tokenizer:
        return _tokenizer_in(checkpoint.tokenizer)
    of_base = tokenizer_files(checkpoint.base) if checkpoint.base else []
    if checkpoint.hub:
        return [str(checkpoint.path), *of_base]
    own, to_be_made = Path(checkpoint.path) / TOKENIZER, not Path(checkpoint.path).is_dir()
    if to_be_made and not checkpoint.adapter:
        return [str(own), str(own.with_name(TOKENIZER_CONFIG))]
    return _tokenizer_in(checkpoint.path) if own.exists() or not of_base else of_base


def _tokenizer_in(folder: str | Path) -> list[str]:
    settings = Path(folder) / TOKENIZER_CONFIG
    return [str(Path(folder) / TOKENIZER), *([str(settings)] if settings.exists() else [])]


def own_files(checkpoint: Checkpoint) -> list[Path]:
    """What a folder must have beside a tokenizer: its config, its weights, and the code that it is allowed to bring."""
    folder = Path(checkpoint.path)
    code = sorted(folder.glob("*.py")) if checkpoint.trust_remote_code else []
    return [folder / (ADAPTER_CONFIG if checkpoint.adapter else CONFIG), *weight_files(checkpoint), *code]


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The file of the weights, or the index of its shards and all that it names, whether they are there or not.

    safetensors where there are some; pickles where they are allowed.
    """
    folder, (safe, pickled) = Path(checkpoint.path), _weight_names(checkpoint)
    for name in (safe, pickled) if checkpoint.allow_pickle else (safe,):
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            return [index, *(folder / shard for shard in sorted(set(_shards(index).values())))]
    return [folder / safe]


def _shards(index: Path) -> dict[str, str]:
    """Name of each weight -> the file beside the index that holds it."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index}: has no weight_map; allowed: an index of shards")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{index}: weight_map.{name} is {shard!r}; allowed: the name of a file in the same folder")
    return shards


def opened_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes that a model's weights take once opened, an adapter's with its base's; None while a file is missing."""
    files, of_base = weight_files(checkpoint), opened_bytes(checkpoint.whole) if checkpoint.adapter else 0
    if of_base is None or not all(file.is_file() for file in files):
        return None
    size = sum(file.stat().st_size for file in files)
    settings = read_json(Path(checkpoint.path) / CONFIG) if not checkpoint.adapter else {}
    stored = str(settings.get("dtype", settings.get("torch_dtype")))
    return of_base + size * ITEM_BYTES[checkpoint.dtype] // ITEM_BYTES.get(stored, ITEM_BYTES[checkpoint.dtype])


def require_files(checkpoint: Checkpoint) -> None:
    """Refuse a folder that lacks a file or holds what the config does not allow."""
    key, folder = f"models.{checkpoint.name}", Path(checkpoint.path)
    if not folder.is_dir():
        raise InputError(f"{key}.path: no folder {str(folder)!r}; allowed: a folder with {_names(checkpoint)}")
    if is_adapter(folder) != checkpoint.adapter:
        raise InputError(f"{key}.adapter: {str(checkpoint.adapter).lower()}, but {folder} says otherwise")
    safe, pickled = _weight_names(checkpoint)
    for file in own_files(checkpoint):
        if file.is_file():
            continue
        if file.name == safe and any((folder / f"{pickled}{end}").exists() for end in ("", ".index.json")):
            allowed = f"{safe}, or true if you trust who made it: a pickle can run code"
            raise InputError(
                f"{key}.allow_pickle: false, but {folder} has its weights in {pickled}; allowed: {allowed}"
            )
        raise InputError(f"{key}.path: {folder} has no {file.name}; allowed: a folder that has")
    if checkpoint.adapter:
        _require_settings(folder / ADAPTER_CONFIG)
    else:
        _require_code(checkpoint)


def _require_settings(file: Path) -> None:
    """Refuse an adapter under which heads cannot be compared."""
    settings = given_settings(file)
    if (kind := settings.get("peft_type")) != "LORA":
        raise InputError(f"{file}: peft_type is {kind!r}; allowed: LORA")
    for key in sorted(REFUSED_SETTINGS.keys() & settings):
        raise InputError(f"{file}: {key} is {settings[key]!r}; allowed: null; {REFUSED_SETTINGS[key]}")
    if REFUSED_BEGINNINGS.fullmatch(str(begun := settings.get("init_lora_weights"))):
        allowed = "an adapter on an unchanged base, converted where it was trained: save_pretrained(FOLDER, "
        allowed += "path_initial_model_for_weight_conversion=...), or the whole model after merge_and_unload()"
        raise InputError(f"{file}: init_lora_weights is {begun!r}; allowed: {allowed}")


def given_settings(file: Path) -> dict[str, Any]:
    """What an adapter's settings say, without those that are empty."""
    empty = (None, "", [], {})
    return {key: value for key, value in read_json(file).items() if value is not False and value not in empty}


def _require_code(checkpoint: Checkpoint) -> None:
    """Refuse code of a model's own that is not allowed or not in its folder; a family of transformers needs none."""
    file = Path(checkpoint.path) / CONFIG
    config = read_json(file)
    if config.get("auto_map") in (None, {}) or known_family(config):
        return
    if not checkpoint.trust_remote_code:
        allowed = "a model without, or true once you have read it"
        key = f"models.{checkpoint.name}.trust_remote_code"
        raise InputError(f"{key}: false, but {file.parent} brings its own code; allowed: {allowed}")
    for name, at in config["auto_map"].items() if isinstance(config["auto_map"], dict) else [("", config["auto_map"])]:
        for entry in at if isinstance(at, list) else [at]:
            module = entry.partition(".")[0] if isinstance(entry, str) and re.fullmatch(r"\w+\.\w+", entry) else None
            if entry is not None and (module is None or not (file.parent / f"{module}.py").is_file()):
                allowed = "MODULE.CLASS of a file MODULE.py in the same folder (copy it there)"
                raise InputError(f"{file}: auto_map.{name} is {entry!r}; allowed: {allowed}")


def plain_settings(config: Any) -> Any:
    """A config without what its writer's machine preferred: it decides how numbers are computed there, not which."""
    if isinstance(config, list):
        return [plain_settings(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: plain_settings(value) for key, value in config.items() if key not in PREFERENCES}


def _require_plain(checkpoint: Checkpoint) -> None:
    """Refuse quantised weights. What is left of quantisation in a config beside plain ones is passed over."""
    file = Path(checkpoint.path) / CONFIG
    config = read_json(file)
    key = next((key for key in QUANTISED if config.get(key)), None)
    stored = set() if key is None else set(stored_weights(checkpoint).values())
    if key is None:
        return
    method = config[key].get("quant_method", config[key]) if isinstance(config[key], dict) else config[key]
    if stored and stored <= PLAIN and isinstance(method, str) and method in STORING:
        return
    allowed = (
        "plain weights: open it where its quantisation is installed, then model.dequantize().save_pretrained(FOLDER)"
    )
    raise InputError(f"{file}: {key} is {method!r}; allowed: {allowed}")


def _require_fitting(checkpoint: Checkpoint) -> None:
    """Refuse a config that asks for far more than the weights hold, before anything is made of that size."""
    file, shape = Path(checkpoint.path) / CONFIG, read_shape(checkpoint.path)
    files, stored = weight_files(checkpoint), stored_weights(checkpoint)
    if not stored and files[-1].suffix != ".bin":
        return  # damaged: opening says where
    held = sum(each.stat().st_size for each in files)
    tensors = len(stored) or held
    for many, most, allowed in (
        (shape.layers, tensors, f"at most its {tensors} weights"),
        ((shape.layers + shape.vocabulary) * shape.width, held, f"what its {held} bytes of weights can hold"),
    ):
        if many > most:
            raise InputError(f"{file}: asks for {shape}; allowed: {allowed}")


def stored_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """Name of each weight -> its type of numbers, as safetensors call it; none of pickles and damaged files."""
    found = {}
    for file in weight_files(checkpoint):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "np") as weights:
                    found |= {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - it is no dict
            except (SafetensorError, OSError):
                return {}  # opening it says what is wrong
    return found


def require_base(checkpoint: Checkpoint) -> None:
    """Refuse a fine-tuned checkpoint whose heads are not its base's, and an adapter that was made on another base."""
    base, key = checkpoint.base, f"models.{checkpoint.name}"
    if base is None:
        return
    if checkpoint.adapter:
        named = adapter_base(checkpoint.path)
        if named is None:
            return
        if (Path(named) / CONFIG).is_file():  # a relative name may be that of any folder here
            if not (Path(base.path).is_dir() and Path(named).samefile(base.path)):
                raise InputError(
                    f"{key}.base: {checkpoint.path} is an adapter on {named}; allowed: that folder's model"
                )
        elif base.hub and re.fullmatch(r"[\w.-]+/[\w.-]+", named) and named != base.hub:
            allowed = "that base, or the folder (path) of a copy of it"
            raise InputError(
                f"{key}.base: {checkpoint.path} is an adapter on {named}, not {base.hub}; allowed: {allowed}"
            )
    elif (Path(base.path) / CONFIG).exists():
        require_heads(checkpoint, read_shape(checkpoint.path))


def require_heads(checkpoint: Checkpoint, shape: Shape) -> None:
    """Refuse a model whose heads are not those of its base, by whose names they are compared."""
    wanted = read_shape((checkpoint.base or checkpoint).path)
    if shape != wanted:
        had = f"models.{checkpoint.name}.path: {checkpoint.path} has {shape.of_heads}"
        raise InputError(f"{had}; allowed: those of its base, {wanted.of_heads}")


def require_tokenizer(checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer folder without one, and a base that has none of its own."""
    folder, key = tokenizer_folder(checkpoint), "tokenizer" if checkpoint.tokenizer else "path"
    if not (checkpoint.tokenizer or not checkpoint.base) or (folder / TOKENIZER).is_file():
        return
    allowed = "a folder that has"
    if other := next((name for name in OTHER_TOKENIZERS if (folder / name).is_file()), None):
        convert = f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        allowed += f"; transformers makes it from its {other}: {convert}"
    raise InputError(f"models.{checkpoint.name}.{key}: {folder} has no {TOKENIZER}; allowed: {allowed}")


def require_checkpoint(checkpoint: Checkpoint) -> None:
    """Refuse what cannot be opened or compared, as far as that is known without opening it."""
    require_files(checkpoint)
    if not checkpoint.adapter:
        _require_plain(checkpoint)
        _require_fitting(checkpoint)
    require_base(checkpoint)
    require_tokenizer(checkpoint)


def _weight_names(checkpoint: Checkpoint) -> tuple[str, str]:
    return (ADAPTER, PICKLED_ADAPTER) if checkpoint.adapter else (WEIGHTS, PICKLED)


def _names(checkpoint: Checkpoint) -> str:
    tokenizer = [TOKENIZER] if not checkpoint.base else []
    return ", ".join([*(file.name for file in own_files(checkpoint)), *tokenizer])


def read_json(file: Path) -> dict:
    """A JSON object; InputError when it cannot be read, or says something twice: one of the two would be lost."""

    def once(pairs: list[tuple[str, Any]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
        return found

    try:
        value = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=once)
    except RecursionError as error:
        raise InputError(f"{file}: cannot be read (nested too deeply)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds no JSON object")
    return value
