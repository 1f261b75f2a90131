rule fetch_model:
    output:
        folder=directory(f"{FETCHED}/{{hub}}/{{revision}}"),
        record=f"{FETCHED}/{{hub}}/{{revision}}.record.json",
    log:
        f"{FETCHED}/logs/{{hub}}/{{revision}}.log",
    wildcard_constraints:
        hub="[^/]+--[^/]+",
        revision="[0-9a-f]{40}",
    localrule: True  # a cluster's nodes have no connection to the hub
    conda:
        CONDA
    params:
        model=fetched,
        name=lambda wildcards, output: fetched_model(wildcards).name,  # for errors: another config's name changes nothing
        revision=lambda w: w.revision,
        code=code("fetch_model"),
    message:
        "Fetch {wildcards.hub} at {wildcards.revision}"
    script:
        "../scripts/fetch_model.py"


rule check_model:
    input:
        model=model_files,
        base_config=there(BASE_CONFIG),
        tokenizer=there(tokenizer_files(CHECKPOINTS[BASE])),
        prompts=f"{RUN}/dataset/discovery.parquet",
    output:
        check=f"{RUN}/models/{{model}}/check.json",
        record=f"{RUN}/models/{{model}}/check.record.json",
    log:
        f"{RUN}/logs/check_model/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        tolerance=lambda w: config["null_patch_tolerance"][CHECKPOINTS[w.model].dtype],
        chance=1 / config["task"]["boxes"],
        least=config["least_accuracy"],
        memory=config["memory"],
        code=code("check_model"),
    message:
        "{wildcards.model}: check shape, tokenizer and null patch"
    script:
        "../scripts/check_model.py"


rule mean_activations:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        means=f"{RUN}/dataset/means.parquet",
    output:
        means=f"{RUN}/models/{{model}}/means.safetensors",
        record=f"{RUN}/models/{{model}}/means.record.json",
    log:
        f"{RUN}/logs/mean_activations/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        memory=config["memory"],
        code=code("mean_activations"),
    message:
        "{wildcards.model}: mean activations"
    script:
        "../scripts/mean_activations.py"
