rule check_model:
    input:
        files=lambda w: checkpoint_files(model_path(w)),
        base_config=f"{config['models'][BASE]['path']}/config.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
    output:
        check=f"{RUN}/models/{{model}}/check.json",
        record=f"{RUN}/models/{{model}}/check.record.json",
    log:
        f"{RUN}/logs/check_model/{{model}}.log",
    conda:
        CONDA
    params:
        path=model_path,
        batch_size=config["batch_size"],
        code=code("check_model"),
    message:
        "{wildcards.model}: check shape, tokenizer and null patch"
    script:
        "../scripts/check_model.py"


rule mean_activations:
    input:
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
        batch_size=config["batch_size"],
        code=code("mean_activations"),
    message:
        "{wildcards.model}: mean activations"
    script:
        "../scripts/mean_activations.py"
