"""The tables a reader sees, each from the run's own numbers.

Parquet and CSV keep exact values; Markdown and LaTeX round when they print. Where a model is one of the paper's, the
published number stands beside the run's.
"""
