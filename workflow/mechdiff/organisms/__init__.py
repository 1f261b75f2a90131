"""The default family: small models with a planted mechanism, and how they are trained.

Nothing outside this package depends on it: the experiments see ordinary checkpoints.
"""
