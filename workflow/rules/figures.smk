rule figure_1:
    input:
        circuit=f"{RUN}/minimality/{BASE}/circuit.json",
        patterns=f"{RUN}/attention_patterns/{BASE}.parquet",
        changes=changes_of(BASE),
        discovery=f"{RUN}/dataset/discovery.parquet",
        evaluation=f"{RUN}/dataset/evaluation.parquet",
    output:
        **figure_files("figure_1_circuit", SAME, "Figure 1", "The circuit"),
        record=f"{RUN}/figures/figure_1_circuit.record.json",
    log:
        f"{RUN}/logs/figure_1.log",
    conda:
        CONDA
    params:
        base=BASE,
        names=NAMES,
        plan=[{key: entry[key] for key in ("group", "receiver", "via")} for entry in config["plan"]],
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("figure_1"),
    message:
        "Figure 1: The circuit"
    script:
        "../scripts/figure_1.py"


rule figure_2:
    input:
        desiderata=[f"{RUN}/desiderata/{name}.parquet" for name in DESIDERATA],
    output:
        **figure_files("figure_2_desiderata", FUNCTION, "Figure 2", "The desiderata"),
        record=f"{RUN}/figures/figure_2_desiderata.record.json",
    log:
        f"{RUN}/logs/figure_2.log",
    conda:
        CONDA
    params:
        desiderata=list(DESIDERATA),
        seed=config["seed"],
        code=code("figure_2"),
    message:
        "Figure 2: The desiderata"
    script:
        "../scripts/figure_2.py"


rule figure_3:
    input:
        table=f"{RUN}/tables/table_activation_patching.parquet",
        circuit=f"{RUN}/minimality/{BASE}/circuit.json",
    output:
        **figure_files("figure_3_functions", FUNCTION, "Figure 3", "What the base circuit carries"),
        record=f"{RUN}/figures/figure_3_functions.record.json",
    log:
        f"{RUN}/logs/figure_3.log",
    conda:
        CONDA
    params:
        base=BASE,
        boxes=config["task"]["boxes"],
        seed=config["seed"],
        code=code("figure_3"),
    message:
        "Figure 3: What the base circuit carries"
    script:
        "../scripts/figure_3.py"


rule figure_functions:
    input:
        table=f"{RUN}/tables/table_activation_patching.parquet",
        circuits=OWN_CIRCUITS,
    output:
        **figure_files("figure_A8_A9_functions", FUNCTION, "Figures A8, A9", "What own circuits carry"),
        record=f"{RUN}/figures/figure_A8_A9_functions.record.json",
    log:
        f"{RUN}/logs/figure_functions.log",
    conda:
        CONDA
    params:
        models=FINE_TUNED,
        base=BASE,
        boxes=config["task"]["boxes"],
        seed=config["seed"],
        code=code("figure_functions"),
    message:
        "Figures A8, A9: What own circuits carry"
    script:
        "../scripts/figure_functions.py"


rule figure_4:
    input:
        table=f"{RUN}/tables/table_cmap.parquet",
        circuits=OWN_CIRCUITS,
    output:
        **figure_files("figure_4_cmap", STEP, "Figure 4", "Cross-model patching"),
        record=f"{RUN}/figures/figure_4_cmap.record.json",
    log:
        f"{RUN}/logs/figure_4.log",
    conda:
        CONDA
    params:
        models=FINE_TUNED,
        seed=config["seed"],
        code=code("figure_4"),
    message:
        "Figure 4: Cross-model patching"
    script:
        "../scripts/figure_4.py"


rule figure_cmap_inputs:
    input:
        table=f"{RUN}/tables/table_cmap.parquet",
        circuits=OWN_CIRCUITS,
    output:
        **figure_files("figure_cmap_inputs", STEP, "–", "Cross-model patching of inputs"),
        record=f"{RUN}/figures/figure_cmap_inputs.record.json",
    log:
        f"{RUN}/logs/figure_cmap_inputs.log",
    conda:
        CONDA
    params:
        models=FINE_TUNED,
        seed=config["seed"],
        code=code("figure_cmap_inputs"),
    message:
        "–: Cross-model patching of inputs"
    script:
        "../scripts/figure_cmap_inputs.py"


rule figure_completeness:
    input:
        points=f"{RUN}/completeness/points.parquet",
        table=f"{RUN}/tables/table_A1_A4_A8_completeness.parquet",
    output:
        **figure_files("figure_A3_A4_A6_completeness", SAME, "Figures A3, A4, A6", "Completeness"),
        record=f"{RUN}/figures/figure_A3_A4_A6_completeness.record.json",
    log:
        f"{RUN}/logs/figure_completeness.log",
    conda:
        CONDA
    params:
        seed=config["seed"],
        code=code("figure_completeness"),
    message:
        "Figures A3, A4, A6: Completeness"
    script:
        "../scripts/figure_completeness.py"


rule figure_causal_impact:
    input:
        table=f"{RUN}/tables/table_causal_impact.parquet",
    output:
        **figure_files("figure_A5_A7_causal_impact", SAME, "Figures A5, A7", "Causal impact of heads"),
        record=f"{RUN}/figures/figure_A5_A7_causal_impact.record.json",
    log:
        f"{RUN}/logs/figure_causal_impact.log",
    conda:
        CONDA
    params:
        base=BASE,
        rows=config["dataset"]["rows"]["discovery"],
        seed=config["seed"],
        code=code("figure_causal_impact"),
    message:
        "Figures A5, A7: Causal impact of heads"
    script:
        "../scripts/figure_causal_impact.py"


rule figure_knockout:
    input:
        table=f"{RUN}/tables/table_attention_knockout.parquet",
    output:
        **figure_files("figure_A1_knockout", FLOW, "Figure A1", "To the last token", "last_"),
        **figure_files("figure_A2_knockout", FLOW, "Figure A2", "To the query label", "query_label_"),
        record=f"{RUN}/figures/figure_knockout.record.json",
    log:
        f"{RUN}/logs/figure_knockout.log",
    conda:
        CONDA
    params:
        numbers={"last": "A1", "query_label": "A2"},
        seed=config["seed"],
        code=code("figure_knockout"),
    message:
        "Figures A1, A2: Attention knockout"
    script:
        "../scripts/figure_knockout.py"
