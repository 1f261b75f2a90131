rule check_model:
    input:
        model=model_files,
        base_config=there(f"{config['models'][BASE]['path']}/config.json"),
        prompts=f"{RUN}/dataset/discovery.parquet",
    output:
        check=f"{RUN}/models/{{model}}/check.json",
        record=f"{RUN}/models/{{model}}/check.record.json",
    log:
        f"{RUN}/logs/check_model/{{model}}.log",
    conda:
        CONDA
    params:
        path=model_path,
        adapter_on=adapter_on,
        tolerance=config["null_patch_tolerance"],
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
    params:
        path=model_path,
        adapter_on=adapter_on,
        memory=config["memory"],
        code=code("mean_activations"),
    message:
        "{wildcards.model}: mean activations"
    script:
        "../scripts/mean_activations.py"
