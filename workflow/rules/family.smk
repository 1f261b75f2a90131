# Training the default family again, from a seed. The default run uses the weights in resources/models and needs none of it.
FAMILY_FILE = Path(workflow.basedir, "config", "family.yaml")
FINE_TUNED_MEMBERS = read_family(FAMILY_FILE)["fine_tuned"] if FAMILY_FILE.exists() else {}  # a run's crate has none
ADAPTERS = [name for name, settings in FINE_TUNED_MEMBERS.items() if settings["adapter"]]
FAMILY = "results/family/seed{seed}"
TOKENIZER_FILES = {"tokenizer": "tokenizer.json", "tokenizer_config": "tokenizer_config.json"}
CHECKPOINT_FILES = {"config": "config.json", "weights": "model.safetensors"} | TOKENIZER_FILES
ADAPTER_FILES = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}


rule train_base:
    input:
        family="config/family.yaml",
        objects="config/objects.txt",
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
        family="config/family.yaml",
        objects="config/objects.txt",
    output:
        **{name: f"{FAMILY}/{{member}}/{file}" for name, file in CHECKPOINT_FILES.items()},
        record=f"{FAMILY}/{{member}}/{{member}}.record.json",
    log:
        f"{FAMILY}/logs/fine_tune/{{member}}.log",
    wildcard_constraints:
        member="|".join(re.escape(name) for name in FINE_TUNED_MEMBERS if name not in ADAPTERS),
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
        family="config/family.yaml",
        objects="config/objects.txt",
    output:
        **{name: f"{FAMILY}/{{member}}/{file}" for name, file in ADAPTER_FILES.items()},
        record=f"{FAMILY}/{{member}}/{{member}}.record.json",
    log:
        f"{FAMILY}/logs/fine_tune_adapter/{{member}}.log",
    wildcard_constraints:
        member="|".join(map(re.escape, ADAPTERS)),
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
        expand("results/family/seed0/{member}/{member}.record.json", member=["mini-llama", *FINE_TUNED_MEMBERS]),
