rule generate_dataset:
    input:
        objects=config["task"]["objects"],
        tokenizer=there(tokenizer_files(CHECKPOINTS[BASE])),
    output:
        split=f"{RUN}/dataset/{{split}}.parquet",
        record=f"{RUN}/dataset/{{split}}.record.json",
    log:
        f"{RUN}/logs/generate_dataset/{{split}}.log",
    conda:
        CONDA
    params:
        tokenizer=base_tokenizer,
        boxes=config["task"]["boxes"],
        layout=config["dataset"]["layout"],
        rows=rows_so_far,
        seed=config["seed"],
        code=code("generate_dataset"),
    message:
        "Generate the dataset: {wildcards.split}"
    script:
        "../scripts/generate_dataset.py"


rule generate_desideratum:
    input:
        objects=config["task"]["objects"],
        tokenizer=there(tokenizer_files(CHECKPOINTS[BASE])),
    output:
        split=f"{RUN}/desiderata/{{desideratum}}.parquet",
        record=f"{RUN}/desiderata/{{desideratum}}.record.json",
    log:
        f"{RUN}/logs/generate_desideratum/{{desideratum}}.log",
    conda:
        CONDA
    params:
        tokenizer=base_tokenizer,
        boxes=config["task"]["boxes"],
        rows=desideratum_rows,
        sets=config["desiderata"]["sets"],
        seed=config["seed"],
        code=code("generate_desideratum"),
    message:
        "Generate the desideratum: {wildcards.desideratum}"
    script:
        "../scripts/generate_desideratum.py"
