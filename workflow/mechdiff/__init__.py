"""mechdiff: what did fine-tuning change inside the model?

One idea a room. A room imports from those above it and never from those below; the linter holds them to it:

    common       errors, text as it leaves the program, files that users bring, random streams, progress
    circuits     heads, groups, circuits and the positions at which they act
    tasks        boxes: the paper's task: scenes and prompts, the splits, desiderata (section 3, appendix J)
    models       checkpoints and the hub, read without opening them; networks opened so that they can be patched
    engine       edits as data, run as recomputed causal cones; ``plain``: whole forward passes, to which it is held
    experiments  model_check: before any other, is the model read correctly?
                 path_patching, ranking, stability: circuit discovery (section 4.1); would it find the same again?
                 faithfulness, minimality, completeness: F(C), pruning, what is missing (section 4.2, appendices B, C)
                 dcm, activation_patching: which heads carry what (sections 5.1 and 5.2)
                 cmap: across models (section 6); knockout, attention_patterns: attention (appendix A)
    running      the configuration, what a job asks of a cluster, locks, outputs put in place whole or not at all
    report       what a reader sees: intervals, tables, figures, the verdict, the paper's numbers beside them
    provenance   code versions and records of jobs; a finished run audited, explained, compared, packed
    organisms    the default models, planted and trained
    study, cli   the experiments in a notebook; the ``mechdiff`` command
"""

__version__ = "0.1.0"
