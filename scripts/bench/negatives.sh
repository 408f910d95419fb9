#!/usr/bin/env bash
# What the choice of negatives does: one short fine-tuning each with none, random, mined and positive-aware ones; nDCG.
# Stands on the quickstart's stage 1 and its data (recipes/quickstart/run.sh). All start from the same model, see the
# same queries and positives in the same order, and are encoded once for all rules.
#   STEPS: of each fine-tuning (default 48, the recipe's; about 4 minutes each on 2 cores)    SEEDS (default "0")
#   MINER: the model that finds them (default: stage 1's; its cosines are close together, see the report of mining)
#   OUT: where results go (default outputs/negatives)    QUICKSTART (default outputs/quickstart)    PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${OUT:-outputs/negatives}
quickstart=${QUICKSTART:-outputs/quickstart}
python=${PYTHON:-python}
miner=${MINER:-$quickstart/1_pretrain/model}
recipe="--config-dir recipes/quickstart"

mine() {  # NAME key=value ...
    local name=$1
    shift
    # shellcheck disable=SC2086
    "$python" -m qwen3emb_train mine_negatives $recipe --config-name 2_mine model="$miner" \
        examples="$quickstart/data/finetune.jsonl" work_dir="$out/work" output_dir="$out/mined_$name" "$@"
}

mine random rank_from=1 rank_to=1000000 max_relative_score=null   # any document that is no positive
mine mined rank_from=1 rank_to=30 max_relative_score=null         # the nearest, false negatives among them
mine positive_aware rank_from=1 rank_to=30 max_relative_score=0.95

models=()
for seed in ${SEEDS:-0}; do
    for name in none random mined positive_aware; do
        run=$out/${name}_$seed
        examples=$out/mined_$name/examples.jsonl
        [[ $name == none ]] && examples=$quickstart/data/finetune.jsonl
        # shellcheck disable=SC2086
        "$python" -m qwen3emb_train train_embedding $recipe --config-name 3_finetune steps="${STEPS:-48}" seed="$seed" \
            model.path="$quickstart/1_pretrain/model" data.functions.path="$examples" output_dir="$run"
        models+=("models.${name}_$seed=$run/model")
    done
done
"$python" -m qwen3emb_train evaluate models.stage_1="$quickstart/1_pretrain/model" "${models[@]}" \
    sets.dev.path="$quickstart/data/dev" sets.dev.split=dev sets.test.path="$quickstart/data/test" \
    "sets.dev.instruction=Given a question about programming in Python, retrieve the source code of the function that answers it" \
    "sets.test.instruction=Given a question about programming in Python, retrieve the source code of the function that answers it" \
    max_tokens=256 output_dir="$out/evaluation"
