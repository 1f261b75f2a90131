rule path_patching:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        discovery=f"{RUN}/dataset/discovery.parquet",
        receivers=receiver_changes,
    output:
        changes=f"{RUN}/path_patching/{{model}}/{{group}}.{{shard}}.parquet",
        record=f"{RUN}/path_patching/{{model}}/{{group}}.{{shard}}.record.json",
    log:
        f"{RUN}/logs/path_patching/{{model}}/{{group}}.{{shard}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        position=lambda w: step(w)["position"],
        via=lambda w: step(w)["via"],
        receivers=receiver_count,
        shards=SHARDS["path_patching"],
        memory=config["memory"],
        code=code("path_patching"),
    message:
        "{wildcards.model}: path patching, group {wildcards.group}, shard {wildcards.shard}"
    script:
        "../scripts/path_patching.py"


rule select_candidates:
    input:
        check=f"{RUN}/models/{{model}}/check.json",
        changes=lambda w: changes_of(w.model),
    output:
        candidates=f"{RUN}/candidates/{{model}}.json",
        scores=f"{RUN}/candidates/{{model}}.scores.parquet",
        record=f"{RUN}/candidates/{{model}}.record.json",
    log:
        f"{RUN}/logs/select_candidates/{{model}}.log",
    conda:
        CONDA
    params:
        plan=selection_plan,
        code=code("select_candidates"),
    message:
        "{wildcards.model}: select candidates"
    script:
        "../scripts/select_candidates.py"


rule stability:
    input:
        check=f"{RUN}/models/{{model}}/check.json",
        discovery=f"{RUN}/dataset/discovery.parquet",
        changes=lambda w: changes_of(w.model),
    output:
        chosen=f"{RUN}/stability/{{model}}.parquet",
        record=f"{RUN}/stability/{{model}}.record.json",
    log:
        f"{RUN}/logs/stability/{{model}}.log",
    conda:
        CONDA
    params:
        plan=selection_plan,
        resamples=config["stability"]["resamples"],
        seed=config["seed"],
        code=code("stability"),
    message:
        "{wildcards.model}: stability of the candidates"
    script:
        "../scripts/stability.py"


rule minimality_pairs:
    input:
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        minimality=f"{RUN}/dataset/minimality.parquet",
        means=f"{RUN}/models/{{model}}/means.safetensors",
        candidates=f"{RUN}/candidates/{{model}}.json",
    output:
        pairs=f"{RUN}/minimality/{{model}}/pairs.{{shard}}.parquet",
        record=f"{RUN}/minimality/{{model}}/pairs.{{shard}}.record.json",
    log:
        f"{RUN}/logs/minimality_pairs/{{model}}.{{shard}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        shards=SHARDS["minimality"],
        memory=config["memory"],
        code=code("minimality_pairs"),
    message:
        "{wildcards.model}: minimality, pairs of heads, shard {wildcards.shard}"
    script:
        "../scripts/minimality_pairs.py"


rule minimality:
    input:
        pairs=lambda w: pairs_of(w.model),
        model=model_files,
        check=f"{RUN}/models/{{model}}/check.json",
        minimality=f"{RUN}/dataset/minimality.parquet",
        means=f"{RUN}/models/{{model}}/means.safetensors",
        candidates=f"{RUN}/candidates/{{model}}.json",
    output:
        pairs=f"{RUN}/minimality/{{model}}/pairs.parquet",
        scores=f"{RUN}/minimality/{{model}}/scores.parquet",
        circuit=f"{RUN}/minimality/{{model}}/circuit.json",
        record=f"{RUN}/minimality/{{model}}/minimality.record.json",
    log:
        f"{RUN}/logs/minimality/{{model}}.log",
    conda:
        CONDA
    resources:
        **model_job(),
    params:
        model=model_entry,
        fraction=config["minimality"]["fraction"],
        threshold=lambda w: configuration.threshold_for(config, w.model),
        memory=config["memory"],
        code=code("minimality"),
    message:
        "{wildcards.model}: minimality"
    script:
        "../scripts/minimality.py"
