#!/usr/bin/env bash
# The first run: makes .venv, installs, then trains, merges, exports and evaluates a small embedding model on this
# Python's own standard library. No account, no hub, no GPU. Restartable: done steps are not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
# SYNTHESIZE=1 adds a stage in which a language model on this machine writes queries.
bash scripts/install.sh "quickstart$([ "${SYNTHESIZE:-0}" = 0 ] || echo ,synth,gguf)"
PYTHON=.venv/bin/python exec bash recipes/quickstart/run.sh
