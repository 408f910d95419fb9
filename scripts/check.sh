#!/usr/bin/env bash
# Everything that CI runs: format, lint, types, layers, tests. Makes .venv if absent; restartable.
#   scripts/check.sh            all of it
#   scripts/check.sh fast       the same without slow tests (tests/tiers.py: processes, Ray, FAISS, mergekit, llama.cpp)
#   scripts/check.sh docs       the pages under docs/, with every link and reference resolved
#   scripts/check.sh tests/losses -k margin      only pytest, with these arguments
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev
bin=.venv/bin
# Two OpenMP threads that share cores with other work wait for one another more than they compute.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
build_docs() {
    echo "== docs"
    NO_MKDOCS_2_WARNING=1 $bin/python -m mkdocs build --strict --quiet
    echo "outputs/site/index.html"
}
chosen=()
case ${1:-} in
    docs)
        build_docs
        exit 0
        ;;
    fast) chosen=(-m "not slow and not gpu and not network") ;;
    "") ;;
    *) exec $bin/python -m pytest "$@" ;;
esac
# The public data sets beside the project, where there are any: tests marked "data" use them, others need nothing.
if [ -z "${QWEN3EMB_DATA:-}" ] && [ -f ../shared/data/unpack.py ]; then
    export QWEN3EMB_DATA=${XDG_CACHE_HOME:-$HOME/.cache}/qwen3emb-data
    echo "== unpacking public data sets for the tests that read them"
    $bin/python ../shared/data/unpack.py "$QWEN3EMB_DATA" qwen3-tokenizer nl2bash >/dev/null
fi
echo "== format"; $bin/ruff format --check .
echo "== lint";   $bin/ruff check .
echo "== types";  $bin/mypy
echo "== layers"; $bin/lint-imports
if [ ${#chosen[@]} -eq 0 ]; then build_docs; fi
# A process for each core, but no more than 8; tests that start ranks of their own share them.
echo "== tests";  $bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal ${chosen[@]+"${chosen[@]}"}
