"""Rule figure_1: the base circuit over one of the run's own prompts (paper, Figure 1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import read_shards
from mechdiff.provenance.records import job
from mechdiff.report.figures.circuit import circuit_figure, circuit_parts
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.circuits import compositions, unreached
from mechdiff.report.tables.writing import write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        circuit, patterns = Circuit.read(inputs.circuit), pd.read_parquet(inputs.patterns)
        shown, scenes = pd.read_parquet(inputs.evaluation).iloc[0], pd.read_parquet(inputs.discovery)["scene_id"]
        changes = read_shards(p.names, inputs.changes)
        figure, caption = nothing_figure("no circuit"), f"Figure 1: {p.base} has no circuit."
        if not circuit.groups:
            figure, caption = nothing_figure(), f"Figure 1: {p.base} has no circuit: it was not evaluated."
        if circuit.nodes():
            edges = compositions(circuit, p.plan, changes, scenes, p.resamples, p.seed)
            groups, strongest, tokens = circuit_parts(circuit, p.names, patterns, shown)
            figure = circuit_figure(groups, strongest, edges, tokens, shown["answer"])
            caption = (
                f"Figure 1: the circuit of {p.base}, {len(circuit)} heads in {len(circuit.groups)} groups, over a"
                " prompt of this run. Each group stands above the token where it acts; lines show where its strongest"
                " head looks on this prompt, arrows the paths of discovery: the sum of the path-patching scores of the"
                " sender's heads, the mean relative change of the answer's probability, into the receiver's Q, K or V,"
                f" with its 95 % interval over n = {scenes.nunique()} resampled scenes. Seed {p.seed}."
            )
        save(figure, snakemake.output.svg, snakemake.output.png)
        write_caption(caption + unreached({p.base: circuit}), snakemake.output.caption)
