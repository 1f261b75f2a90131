rule dcm:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        desiderata=[f"{RUN}/desiderata/{desideratum}.parquet" for desideratum in DESIDERATA],
        circuit=f"{RUN}/minimality/{{model}}/circuit.json",
    output:
        curves=f"{RUN}/dcm/{{model}}/curves.parquet",
        tested=f"{RUN}/dcm/{{model}}/tested.parquet",
        functional=f"{RUN}/dcm/{{model}}/functional.json",
        record=f"{RUN}/dcm/{{model}}/dcm.record.json",
    log:
        f"{RUN}/logs/dcm/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        desiderata=list(DESIDERATA),
        functions=FUNCTIONS,
        rows=config["desiderata"]["rows"],
        sparsity=config["dcm"]["sparsity"],
        learning_rate=config["dcm"]["learning_rate"],
        batch_size=config["dcm"]["batch_size"],
        epochs=config["dcm"]["epochs"],
        seed=config["seed"],
        memory=config["memory"],
        code=code("dcm"),
    message:
        "{wildcards.model}: DCM, the functional heads of its circuit"
    script:
        "../scripts/dcm.py"


rule activation_patching:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        desiderata=[f"{RUN}/desiderata/{desideratum}.parquet" for desideratum in DESIDERATA],
        functional=expand(f"{RUN}/dcm/{{circuit}}/functional.json", circuit=MODELS),
    output:
        correct=f"{RUN}/activation_patching/{{model}}.{{shard}}.parquet",
        record=f"{RUN}/activation_patching/{{model}}.{{shard}}.record.json",
    log:
        f"{RUN}/logs/activation_patching/{{model}}.{{shard}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        circuits=MODELS,
        sets=config["desiderata"]["sets"],
        shards=SHARDS["activation_patching"],
        memory=config["memory"],
        code=code("activation_patching"),
    message:
        "{wildcards.model}: activation patching, shard {wildcards.shard}"
    script:
        "../scripts/activation_patching.py"


rule positional_desiderata:
    input:
        model=there(checkpoint_files(CHECKPOINTS[BASE])),
        check=f"{RUN}/models/{BASE}/check.json",
        desiderata=[f"{RUN}/desiderata/{desideratum}.parquet" for desideratum in POSITIONAL],
        functional=f"{RUN}/dcm/{BASE}/functional.json",
    output:
        correct=f"{RUN}/positional_desiderata/{BASE}.parquet",
        record=f"{RUN}/positional_desiderata/{BASE}.record.json",
    log:
        f"{RUN}/logs/positional_desiderata/{BASE}.log",
    conda:
        CONDA
    resources:
        **model_job(BASE),
    params:
        base=BASE,
        model=asdict(CHECKPOINTS[BASE]),
        group=POSITION_GROUP,
        memory=config["memory"],
        code=code("positional_desiderata"),
    message:
        f"{BASE}: positional desiderata of group {POSITION_GROUP}"
    script:
        "../scripts/positional_desiderata.py"


rule cmap:
    input:
        model=model_files,
        base_model=there(checkpoint_files(CHECKPOINTS[BASE])),
        check=f"{RUN}/models/{{model}}/check.json",
        base_check=f"{RUN}/models/{BASE}/check.json",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
        circuit=f"{RUN}/minimality/{{model}}/circuit.json",
        functional=f"{RUN}/dcm/{{model}}/functional.json",
    output:
        correct=f"{RUN}/cmap/{{model}}.parquet",
        record=f"{RUN}/cmap/{{model}}.record.json",
    log:
        f"{RUN}/logs/cmap/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(BASE),
    params:
        model=model_entry,
        base=BASE,
        base_model=asdict(CHECKPOINTS[BASE]),
        memory=config["memory"],
        code=code("cmap"),
    message:
        f"Cross-model patching: {{wildcards.model}} into {BASE} and back"
    script:
        "../scripts/cmap.py"
