"""mechdiff: what did fine-tuning change inside the model?

The package reads top-down as the experiment does. A module imports from those above it and never from those below:

    text, errors, reading                text as it leaves the program; what a user can mend; files that users bring
    seeds, heads, shards                 random streams; groups and circuits; blocks of examples
    task, dataset, desiderata            scenes, prompts and named positions; the splits; pairs with a known effect
    checkpoints, hub, schema, config     models, read without opening them; those of the hub, fetched; the configuration
    attending, models, hooks             attention, stood in for; networks as they are patched
    loading, examples                    checkpoints opened for it; splits as tensors
    engine, reference                    recomputed causal cones; whole forward passes, to which the engine is held
    model_check                          before any experiment: is the model read correctly?
    path_patching, ranking, stability    circuit discovery (paper, section 4.1); would it find the same again?
    evaluation, minimality, completeness F(C), faithfulness, random circuits; pruning (section 4.2, appendices B and C)
    dcm, activation_patching             which heads carry what (sections 5.1 and 5.2)
    cmap, attention_knockout             across models (section 6); edges of attention (appendix A)
    staging, provenance, progress        outputs whole or not at all; where each number came from; how far work is
    locks, resources                     runs that were killed; what a job asks of a cluster
    columns, intervals, published        words, resampled scenes and the paper's numbers, for
    tables, figures, verdict             what a reader sees
    sealed, audit, archive               a finished run; verified; packed into one file
    explain, run_diff, crate             the origin of one cell; two runs compared; a run as other tools read it
    study, cli                           the same in a notebook; the ``mechdiff`` command

``family`` trains the default models; nothing else imports it.
"""

__version__ = "0.1.0"
