"""Rule evaluate_circuit: one circuit in one model, beside the model itself and random circuits (paper, section 4.3)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from mechdiff.checkpoints import Checkpoint
from mechdiff.columns import not_evaluated
from mechdiff.engine.run import Run
from mechdiff.evaluation import circuits_correct, model_correct, random_circuit
from mechdiff.examples import clean_examples
from mechdiff.heads import Circuit
from mechdiff.loading import open_model
from mechdiff.progress import progress
from mechdiff.provenance import job
from mechdiff.seeds import stream

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w = snakemake.params, snakemake.wildcards
        table = pd.read_parquet(snakemake.input.evaluation)
        means = load_file(snakemake.input.means)["means"]
        circuit, model = Circuit.read(snakemake.input.circuit), open_model(Checkpoint.from_params(p.model))
        run, found = Run(model, clean_examples(table), p.memory), []
        if circuit.groups and not not_evaluated(snakemake.input.check):
            rng = stream(p.seed, "random circuits", w.circuit)
            circuits = [circuit, *(random_circuit(model, circuit, rng) for _ in range(p.random_circuits))]
            with progress(f"{w.model}: circuit of {w.circuit}", len(circuits) * len(table), "rows") as bar:
                right = circuits_correct(run, means, circuits, bar.update)
            found = [("circuit", 0, right[0])] + [("random", draw, each) for draw, each in enumerate(right[1:])]
        rows = pd.DataFrame({"scene_id": table["scene_id"], "example": range(len(table))})
        found = [("model", 0, model_correct(run)), *found]
        parts = [rows.assign(condition=condition, draw=draw, correct=correct) for condition, draw, correct in found]
        pd.concat(parts).to_parquet(snakemake.output.correct, index=False)
