rule table_1:
    input:
        evaluations=expand(f"{RUN}/evaluation/{BASE}/{{model}}.parquet", model=MODELS),
        circuit=f"{RUN}/minimality/{BASE}/circuit.json",
    output:
        **table_files("table_1"),
    log:
        f"{RUN}/logs/table_1.log",
    conda:
        CONDA
    params:
        base=BASE,
        fine_tuned_on={name: model["fine_tuned_on"] for name, model in config["models"].items()},
        boxes=config["task"]["boxes"],
        resamples=config["evaluation"]["resamples"],
        planted=config["planted"] is not None,
        seed=config["seed"],
        code=code("table_1"),
    message:
        "Table 1"
    script:
        "../scripts/table_1.py"


rule table_heads:
    input:
        circuits=expand(f"{RUN}/minimality/{{model}}/circuit.json", model=MODELS),
        candidates=expand(f"{RUN}/candidates/{{model}}.json", model=MODELS),
    output:
        **table_files("table_heads"),
    log:
        f"{RUN}/logs/table_heads.log",
    conda:
        CONDA
    params:
        models=MODELS,
        names={entry["group"]: entry["name"] for entry in config["plan"]},
        planted=config["planted"] is not None,
        code=code("table_heads"),
    message:
        "Table of heads"
    script:
        "../scripts/table_heads.py"


rule table_planted:
    input:
        family=config["planted"] or [],
        circuits=expand(f"{RUN}/minimality/{{model}}/circuit.json", model=MODELS),
        candidates=expand(f"{RUN}/candidates/{{model}}.json", model=MODELS),
    output:
        **table_files("table_planted"),
    log:
        f"{RUN}/logs/table_planted.log",
    conda:
        CONDA
    params:
        models=MODELS,
        code=code("table_planted"),
    message:
        "Table of planted against found heads"
    script:
        "../scripts/table_planted.py"


rule seal_run:
    input:
        records=all_records(),
    output:
        manifest=MANIFEST,
    log:
        f"{RUN}/logs/seal_run.log",
    conda:
        CONDA
    params:
        code=code("seal_run"),
    message:
        "Seal the records of the run"
    script:
        "../scripts/seal_run.py"
