# Training the default family again, from a seed. The default run uses the weights in resources/models and needs none of it.
FAMILY = f"{configuration.MADE_HERE}seed{{seed}}"
ADAPTERS = [name for name, adapter in configuration.MEMBERS.items() if adapter]
FINE_TUNED_WHOLE = [name for name in configuration.MEMBERS if name not in ("mini-llama", *ADAPTERS)]
TOKENIZER_FILES = {"tokenizer": "tokenizer.json", "tokenizer_config": "tokenizer_config.json"}
CHECKPOINT_FILES = {"config": "config.json", "weights": "model.safetensors"} | TOKENIZER_FILES
ADAPTER_FILES = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}


rule train_base:
    input:
        family=shipped("config/family.yaml"),
        objects=shipped("config/objects.txt"),
    output:
        **{name: f"{FAMILY}/mini-llama/{file}" for name, file in CHECKPOINT_FILES.items()},
        record=f"{FAMILY}/mini-llama/mini-llama.record.json",
    log:
        f"{FAMILY}/logs/train_base.log",
    conda:
        CONDA
    params:
        code=code("train_base"),
    message:
        "Train the base of the family, seed {wildcards.seed}"
    script:
        "../scripts/train_base.py"


rule fine_tune:
    input:
        **{name: f"{FAMILY}/mini-llama/{file}" for name, file in CHECKPOINT_FILES.items()},
        family=shipped("config/family.yaml"),
        objects=shipped("config/objects.txt"),
    output:
        **{name: f"{FAMILY}/{{member}}/{file}" for name, file in CHECKPOINT_FILES.items()},
        record=f"{FAMILY}/{{member}}/{{member}}.record.json",
    log:
        f"{FAMILY}/logs/fine_tune/{{member}}.log",
    wildcard_constraints:
        member="|".join(FINE_TUNED_WHOLE),
    conda:
        CONDA
    params:
        code=code("fine_tune"),
    message:
        "Fine-tune {wildcards.member}, seed {wildcards.seed}"
    script:
        "../scripts/fine_tune.py"


rule fine_tune_adapter:
    input:
        **{name: f"{FAMILY}/mini-llama/{file}" for name, file in CHECKPOINT_FILES.items()},
        family=shipped("config/family.yaml"),
        objects=shipped("config/objects.txt"),
    output:
        **{name: f"{FAMILY}/{{member}}/{file}" for name, file in ADAPTER_FILES.items()},
        record=f"{FAMILY}/{{member}}/{{member}}.record.json",
    log:
        f"{FAMILY}/logs/fine_tune_adapter/{{member}}.log",
    wildcard_constraints:
        member="|".join(ADAPTERS),
    conda:
        CONDA
    params:
        code=code("fine_tune_adapter"),
    message:
        "Fine-tune {wildcards.member}, an adapter, seed {wildcards.seed}"
    script:
        "../scripts/fine_tune_adapter.py"


rule train_family:
    input:
        expand("results/family/seed0/{member}/{member}.record.json", member=configuration.MEMBERS),
    message:
        "The family, seed 0"
