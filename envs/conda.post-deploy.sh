#!/bin/sh
# In the folder of the workflow, with the new environment active.
set -e
pip install --no-deps -e .
