rule table_1:
    input:
        evaluations=expand(f"{RUN}/evaluation/{BASE}/{{model}}.parquet", model=MODELS),
        checks=CHECKS,
        circuit=f"{RUN}/minimality/{BASE}/circuit.json",
        paper=PAPER,
    output:
        **table_files("table_1", SAME, "Table 1", "The base circuit in every model"),
    log:
        f"{RUN}/logs/table_1.log",
    conda:
        CONDA
    params:
        base=BASE,
        fine_tuned_on=FINE_TUNED_ON,
        boxes=config["task"]["boxes"],
        planted=config["planted"] is not None,
        paper=PAPER_NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_1"),
    message:
        "Table 1: The base circuit in every model"
    script:
        "../scripts/table_1.py"


rule table_own_circuits:
    input:
        evaluations=[f"{RUN}/evaluation/{circuit}/{model}.parquet" for circuit, model in OWN_PAIRS],
        checks=CHECKS,
        paper=PAPER,
    output:
        **table_files("table_A5_A9_own_circuits", SAME, "Tables A5, A9", "Own circuits in every model"),
    log:
        f"{RUN}/logs/table_own_circuits.log",
    conda:
        CONDA
    params:
        pairs=OWN_PAIRS,
        fine_tuned_on=FINE_TUNED_ON,
        boxes=config["task"]["boxes"],
        planted=config["planted"] is not None,
        paper=PAPER_NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_own_circuits"),
    message:
        "Tables A5, A9: Own circuits in every model"
    script:
        "../scripts/table_own_circuits.py"


rule table_completeness:
    input:
        found=expand(f"{RUN}/completeness/{{model}}.parquet", model=MODELS),
        paper=PAPER,
        checks=CHECKS,
    output:
        **table_files("table_A1_A4_A8_completeness", SAME, "Tables A1, A4, A8", "Completeness"),
        points=f"{RUN}/completeness/points.parquet",
    log:
        f"{RUN}/logs/table_completeness.log",
    conda:
        CONDA
    params:
        models=MODELS,
        names=NAMES,
        paper=PAPER_NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_completeness"),
    message:
        "Tables A1, A4, A8: Completeness"
    script:
        "../scripts/table_completeness.py"


rule table_heads:
    input:
        circuits=CIRCUITS,
        candidates=expand(f"{RUN}/candidates/{{model}}.json", model=MODELS),
        stability=expand(f"{RUN}/stability/{{model}}.parquet", model=MODELS),
        functional=expand(f"{RUN}/dcm/{{model}}/functional.json", model=MODELS),
        checks=CHECKS,
        paper=PAPER,
    output:
        **table_files("table_A2_A3_A7_heads", SAME, "Tables A2, A3, A7", "Heads of each circuit"),
    log:
        f"{RUN}/logs/table_heads.log",
    conda:
        CONDA
    params:
        models=MODELS,
        plan=[
            {key: entry[key] for key in ("group", "position", "function")} | {"name": NAMES[entry["group"]]}
            for entry in config["plan"]
        ],
        share=config["stability"]["share"],
        planted=config["planted"] is not None,
        paper=PAPER_NAMES,
        resamples=config["stability"]["resamples"],
        seed=config["seed"],
        code=code("table_heads"),
    message:
        "Tables A2, A3, A7: Heads of each circuit"
    script:
        "../scripts/table_heads.py"


rule table_overlap:
    input:
        circuits=CIRCUITS,
        paper=PAPER,
        checks=CHECKS,
    output:
        **table_files("table_A6_A10_overlap", SAME, "Tables A6, A10", "Overlap of circuits"),
    log:
        f"{RUN}/logs/table_overlap.log",
    conda:
        CONDA
    params:
        base=BASE,
        models=MODELS,
        names=NAMES,
        paper=PAPER_NAMES,
        code=code("table_overlap"),
    message:
        "Tables A6, A10: Overlap of circuits"
    script:
        "../scripts/table_overlap.py"


rule table_causal_impact:
    input:
        circuits=CIRCUITS,
        scores=expand(f"{RUN}/candidates/{{model}}.scores.parquet", model=MODELS),
    output:
        **table_files("table_causal_impact", SAME, "Data of Figures A5, A7", "Causal impact of heads"),
    log:
        f"{RUN}/logs/table_causal_impact.log",
    conda:
        CONDA
    params:
        base=BASE,
        models=MODELS,
        code=code("table_causal_impact"),
    message:
        "Data of Figures A5, A7: Causal impact of heads"
    script:
        "../scripts/table_causal_impact.py"


rule table_dcm:
    input:
        tested=expand(f"{RUN}/dcm/{{model}}/tested.parquet", model=MODELS),
        circuits=CIRCUITS,
        checks=CHECKS,
    output:
        **table_files("table_dcm", FUNCTION, "DCM", "Heads that masks find"),
    log:
        f"{RUN}/logs/table_dcm.log",
    conda:
        CONDA
    params:
        models=MODELS,
        names=NAMES,
        sparsity=config["dcm"]["sparsity"],
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_dcm"),
    message:
        "DCM: Heads that masks find"
    script:
        "../scripts/table_dcm.py"


rule table_activation_patching:
    input:
        found=[file for model in MODELS for file in shard_files("activation_patching", f"{model}.")],
        checks=CHECKS,
    output:
        **table_files("table_activation_patching", FUNCTION, "Data of Figures 3, A8, A9", "Activation patching"),
    log:
        f"{RUN}/logs/table_activation_patching.log",
    conda:
        CONDA
    params:
        models=MODELS,
        names=NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_activation_patching"),
    message:
        "Data of Figures 3, A8, A9: Activation patching"
    script:
        "../scripts/table_activation_patching.py"


rule table_positional:
    input:
        found=f"{RUN}/positional_desiderata/{BASE}.parquet",
        paper=PAPER,
    output:
        **table_files("table_A11_positional", FUNCTION, "Table A11", "What position means"),
    log:
        f"{RUN}/logs/table_positional.log",
    conda:
        CONDA
    params:
        base=BASE,
        group=POSITION_GROUP,
        boxes=config["task"]["boxes"],
        paper=PAPER_NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_positional"),
    message:
        "Table A11: What position means"
    script:
        "../scripts/table_positional.py"


rule table_examples:
    input:
        desiderata=[f"{RUN}/desiderata/{name}.parquet" for name in USED],
        words=f"{RUN}/desiderata/{USED[0]}.record.json",  # its notes: what is usable, what was dropped
    output:
        **table_files("table_A12_A13_examples", FUNCTION, "Tables A12, A13", "Examples of desiderata"),
    log:
        f"{RUN}/logs/table_examples.log",
    conda:
        CONDA
    params:
        desiderata=USED,
        seed=config["seed"],
        code=code("table_examples"),
    message:
        "Tables A12, A13: Examples of desiderata"
    script:
        "../scripts/table_examples.py"


rule table_cmap:
    input:
        found=expand(f"{RUN}/cmap/{{model}}.parquet", model=FINE_TUNED),
        checks=CHECKS,
    output:
        **table_files("table_cmap", STEP, "Data of Figure 4", "Cross-model patching"),
    log:
        f"{RUN}/logs/table_cmap.log",
    conda:
        CONDA
    params:
        models=FINE_TUNED,
        all_models=MODELS,
        names=NAMES,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_cmap"),
    message:
        "Data of Figure 4: Cross-model patching"
    script:
        "../scripts/table_cmap.py"


rule table_attention_knockout:
    input:
        found=expand(f"{RUN}/attention_knockout/{{model}}.parquet", model=MODELS),
        checks=CHECKS,
    output:
        **table_files("table_attention_knockout", FLOW, "Data of Figures A1, A2", "Attention knockout"),
    log:
        f"{RUN}/logs/table_attention_knockout.log",
    conda:
        CONDA
    params:
        models=MODELS,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("table_attention_knockout"),
    message:
        "Data of Figures A1, A2: Attention knockout"
    script:
        "../scripts/table_attention_knockout.py"


rule table_planted:
    input:
        family=config["planted"] or [],
        circuits=CIRCUITS,
        candidates=expand(f"{RUN}/candidates/{{model}}.json", model=MODELS),
    output:
        **table_files("table_planted", SAME, "Planted", "Planted against found heads"),
    log:
        f"{RUN}/logs/table_planted.log",
    conda:
        CONDA
    params:
        models=MODELS,
        code=code("table_planted"),
    message:
        "Planted: Planted against found heads"
    script:
        "../scripts/table_planted.py"


rule verdict:
    input:
        table_1=f"{RUN}/tables/table_1.parquet",
        patching=f"{RUN}/tables/table_activation_patching.parquet",
        cmap=f"{RUN}/tables/table_cmap.parquet",
        evaluations=expand(f"{RUN}/evaluation/{BASE}/{{model}}.parquet", model=MODELS),
        circuits=CIRCUITS,
        checks=CHECKS,
    output:
        markdown=f"{RUN}/verdict/verdict.md",
        html=report(
            f"{RUN}/verdict/verdict.html",
            caption="../report/verdict.rst",
            category="0. Verdict",
            labels={"Number": "–", "What": "The paper's three claims"},
        ),
        record=f"{RUN}/verdict/verdict.record.json",
    log:
        f"{RUN}/logs/verdict.log",
    conda:
        CONDA
    params:
        run=config["run"],
        base=BASE,
        models=MODELS,
        boxes=config["task"]["boxes"],
        functions=FUNCTIONS,
        faithfulness=config["verdict"]["faithfulness"],
        gain=config["verdict"]["gain"],
        planted=config["planted"] is not None,
        resamples=config["evaluation"]["resamples"],
        seed=config["seed"],
        code=code("verdict"),
    message:
        "Verdict"
    script:
        "../scripts/verdict.py"


rule crate:
    input:
        records=all_records(),
    output:
        folder=directory(f"{RUN}/crate"),
        metadata=f"{CRATE}.json",
        readme=f"{RUN}/README.md",
        record=f"{CRATE}.record.json",
    log:
        f"{RUN}/logs/crate.log",
    conda:
        CONDA
    params:
        run=lambda wildcards, output: str(Path(output.metadata).parent),
        config=config,
        code=code("crate"),
    message:
        "The run as a Workflow Run RO-Crate"
    script:
        "../scripts/crate.py"


rule seal_run:
    input:
        records=[*all_records(), f"{CRATE}.record.json"],
    output:
        manifest=MANIFEST,
    log:
        f"{RUN}/logs/seal_run.log",
    localrule: True  # a second's work
    conda:
        CONDA
    params:
        run=lambda wildcards, output: str(Path(output.manifest).parent),
        code=code("seal_run"),
    message:
        "Seal the records of the run"
    script:
        "../scripts/seal_run.py"
