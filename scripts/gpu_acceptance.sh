#!/usr/bin/env bash
# Everything that can only be seen on a GPU: correctness and figures, in parts of under 9 minutes; restartable.
#   scripts/gpu_acceptance.sh                          one GPU, at most 24 minutes
#   scripts/gpu_acceptance.sh --hours 3                and recipes/open-small with all 30 layers
#   scripts/gpu_acceptance.sh --only mfu loss          some parts (--help lists them)
#   scripts/gpu_acceptance.sh --device cpu --smoke     tiny shapes, without a GPU: do the parts run?
# Writes gpu_acceptance.json, .md (a table for scripts/bench/RESULTS.md) and .log to outputs/gpu_acceptance, or --output.
# Needs torch, transformers, jaxtyping and, for one part, sentence-transformers; PYTHON names the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$root/.venv/bin/python" ]; then PYTHON=$root/.venv/bin/python; fi
fi
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" -m scripts.acceptance "$@"
