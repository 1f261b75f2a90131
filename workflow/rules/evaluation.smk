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
    params:
        path=model_path,
        adapter_on=adapter_on,
        random_circuits=config["evaluation"]["random_circuits"],
        seed=config["seed"],
        memory=config["memory"],
        code=code("evaluate_circuit"),
    message:
        "Circuit of {wildcards.circuit} in {wildcards.model}"
    script:
        "../scripts/evaluate_circuit.py"
