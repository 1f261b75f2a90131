rule generate_dataset:
    input:
        objects=config["task"]["objects"],
        tokenizer=f"{config['models'][BASE]['path']}/tokenizer.json",
    output:
        split=f"{RUN}/dataset/{{split}}.parquet",
        record=f"{RUN}/dataset/{{split}}.record.json",
    log:
        f"{RUN}/logs/generate_dataset/{{split}}.log",
    conda:
        CONDA
    params:
        boxes=config["task"]["boxes"],
        layout=config["dataset"]["layout"],
        rows=rows_so_far,
        seed=config["seed"],
        code=code("generate_dataset"),
    message:
        "Generate the dataset: {wildcards.split}"
    script:
        "../scripts/generate_dataset.py"
