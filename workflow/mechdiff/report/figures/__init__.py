"""The paper's figures from the run's own numbers: pandas tables in, one Matplotlib figure out, one module a kind.

``style`` has the look that they share, and writes them. Order of appearance in a table is order in the figure.
"""
