rule evaluate_circuit:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
        means=f"{RUN}/models/{{model}}/means.safetensors",
        circuit=f"{RUN}/minimality/{{circuit}}/circuit.json",
    output:
        correct=f"{RUN}/evaluation/{{circuit}}/{{model}}.parquet",
        record=f"{RUN}/evaluation/{{circuit}}/{{model}}.record.json",
    log:
        f"{RUN}/logs/evaluate_circuit/{{circuit}}/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        random_circuits=config["evaluation"]["random_circuits"],
        seed=config["seed"],
        memory=config["memory"],
        code=code("evaluate_circuit"),
    message:
        "Circuit of {wildcards.circuit} in {wildcards.model}"
    script:
        "../scripts/evaluate_circuit.py"


rule completeness:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
        means=f"{RUN}/models/{{model}}/means.safetensors",
        circuit=f"{RUN}/minimality/{{model}}/circuit.json",
    output:
        correct=f"{RUN}/completeness/{{model}}.parquet",
        record=f"{RUN}/completeness/{{model}}.record.json",
    log:
        f"{RUN}/logs/completeness/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        random_subsets=lambda w: configuration.random_subsets_for(config, w.model),
        seed=config["seed"],
        memory=config["memory"],
        code=code("completeness"),
    message:
        "{wildcards.model}: completeness"
    script:
        "../scripts/completeness.py"


rule attention_knockout:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
    output:
        correct=f"{RUN}/attention_knockout/{{model}}.parquet",
        record=f"{RUN}/attention_knockout/{{model}}.record.json",
    log:
        f"{RUN}/logs/attention_knockout/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        memory=config["memory"],
        code=code("attention_knockout"),
    message:
        "{wildcards.model}: attention knockout"
    script:
        "../scripts/attention_knockout.py"


rule attention_patterns:
    input:
        model=there(checkpoint_files(CHECKPOINTS[BASE])),
        check=f"{RUN}/models/{BASE}/check.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
        circuit=f"{RUN}/minimality/{BASE}/circuit.json",
    output:
        patterns=f"{RUN}/attention_patterns/{BASE}.parquet",
        record=f"{RUN}/attention_patterns/{BASE}.record.json",
    log:
        f"{RUN}/logs/attention_patterns/{BASE}.log",
    conda:
        CONDA
    resources:
        **model_job(BASE),
    params:
        model=asdict(CHECKPOINTS[BASE]),
        code=code("attention_patterns"),
    message:
        f"{BASE}: attention of the strongest heads"
    script:
        "../scripts/attention_patterns.py"
