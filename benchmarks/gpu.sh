#!/usr/bin/env bash
# All that a GPU has to show, in one command: bash benchmarks/gpu.sh OUT_FOLDER
# Needs torch, transformers, peft, pandas, pyarrow, pytest and hypothesis; MINUTES (8) is how long it may take. Without
# a GPU it is a rehearsal at small size on the CPU, and says so. What comes out: benchmarks/README.md.
set -euo pipefail
out=$(realpath -m "${1:?usage: bash benchmarks/gpu.sh OUT_FOLDER}")
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1 PYTHONPATH="workflow:tests:benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUBLAS_WORKSPACE_CONFIG=:4096:8
exec "${PYTHON:-$(command -v python || command -v python3)}" benchmarks/gpu.py "$out" --minutes "${MINUTES:-8}"
