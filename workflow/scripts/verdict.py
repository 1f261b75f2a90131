"""Rule verdict: the paper's three claims, with this run's numbers."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.common.files import write_text
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.tables.circuits import unreached
from mechdiff.report.tables.functions import outputs_only
from mechdiff.report.tables.writing import PLANTED, evaluated
from mechdiff.report.verdict import better_information, page, same_circuit, same_function, web_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        evaluations = {Path(file).stem: pd.read_parquet(file) for file in inputs.evaluations}
        correct = {
            model: table[table["condition"] == "model"].set_index("scene_id")["correct"]
            for model, table in evaluations.items()
        }
        cmap = outputs_only(evaluated(pd.read_parquet(inputs.cmap)))
        reasons = read_each(not_evaluated, p.models, inputs.checks)
        claims = [
            same_circuit(pd.read_parquet(inputs.table_1), p.base, p.faithfulness),
            same_function(evaluated(pd.read_parquet(inputs.patching)), p.base, p.functions, 1 / p.boxes, reasons),
            better_information(correct, cmap, p.base, p.functions, reasons, p.gain, p.resamples, p.seed),
        ]
        remark = (PLANTED if p.planted else "") + unreached(read_each(Circuit.read, p.models, inputs.circuits))
        text = page(p.base, p.run, p.seed, claims, remark)
        write_text(snakemake.output.markdown, text)
        write_text(snakemake.output.html, web_page(p.base, text))
