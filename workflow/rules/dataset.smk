rule generate_dataset:
    input:
        objects=config["task"]["objects"],
        tokenizer=f"{config['models'][BASE]['path']}/tokenizer.json",
    output:
        **{split: f"{RUN}/dataset/{split}.parquet" for split in SPLITS},
        record=f"{RUN}/dataset/dataset.record.json",
    log:
        f"{RUN}/logs/generate_dataset.log",
    conda:
        CONDA
    params:
        boxes=config["task"]["boxes"],
        dataset=config["dataset"],
        seed=config["seed"],
        code=code("generate_dataset"),
    message:
        "Generate the dataset: {input.objects} -> scenes and prompts"
    script:
        "../scripts/generate_dataset.py"
