"""Rule minimality: score each head of the candidate circuit and prune it (paper, section 4.2, appendix B)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from mechdiff.circuits import Circuit
from mechdiff.common.files import write_text
from mechdiff.common.progress import progress
from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import count_correct
from mechdiff.experiments.minimality import minimality, pair_counts
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name = snakemake.params, snakemake.wildcards.model
        examples = clean_examples(pd.read_parquet(snakemake.input.minimality))
        candidates = Circuit.read(snakemake.input.candidates)
        means = load_file(snakemake.input.means)["means"]
        run = Run(open_model(Checkpoint.from_params(p.model)), examples, p.memory)
        sizes = [len(group.heads) for group in candidates.groups]
        most = sum(k * (k + 1) // 2 + 2 * k for k in sizes) * len(examples)  # circuits asked for twice are run once
        with progress(f"{name}: minimality", most, "rows") as bar:
            counts = pair_counts(candidates, [pd.read_parquet(file) for file in snakemake.input.pairs])

            def evaluate(group: str, circuits: list[Circuit]) -> dict[Circuit, int]:
                bar.set_postfix_str(f"group {group}", refresh=False)
                return count_correct(run, means, circuits, counts, done=bar.update)

            pairs, scores, circuit = minimality(candidates, evaluate, len(examples), p.fraction, p.threshold)
        pairs.to_parquet(snakemake.output.pairs, index=False)
        scores.to_parquet(snakemake.output.scores, index=False)
        write_text(snakemake.output.circuit, circuit.to_json())
