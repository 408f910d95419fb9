#!/usr/bin/env bash
# The ablation table of README.md: every run, then one evaluation of all of them. Restartable. From the project's root,
# after run.sh (it makes the backbone and mines the negatives):
#   DATA, PYTHON: as in run.sh    SEEDS: of the main rows (default "0 1 2"); every other row has seed 0
#   ONLY: "train" or "evaluate" (default both)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
data=${DATA:-$HOME/.cache/qwen3emb-data}
out=outputs/open-small
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
recipe="--config-dir recipes/open-small"

weak() {  # NAME key=value ...: a stage 1
    local name=$1
    shift
    # shellcheck disable=SC2086
    "$python" -m qwen3emb_train train_embedding $recipe --config-name 1_pretrain model.path="$out/backbone" \
        data.docs_en.path="$data/docs_en/train.jsonl" data.code_py.path="$data/code_py/train.jsonl" \
        data.wordnet_def.path="$data/wordnet_def/train.jsonl" output_dir="$out/$name" "$@"
}
sft() {  # NAME START key=value ...: a stage 2 from START
    local name=$1 start=$2
    shift 2
    # shellcheck disable=SC2086
    "$python" -m qwen3emb_train train_embedding $recipe --config-name 3_finetune model.path="$start" \
        output_dir="$out/$name" "$@"
}

if [[ ${ONLY:-train} == train ]]; then
    for seed in ${SEEDS:-0 1 2}; do
        weak "weak/$seed" seed="$seed"
        sft "weak+sft/$seed" "$out/weak/$seed/model" seed="$seed"
        steps=$out/weak+sft/$seed/checkpoints
        "$python" -m qwen3emb_train merge t=0.5 output_dir="$out/weak+sft+merge/$seed" \
            "models=[$steps/step_000060/model,$steps/step_000080/model]"
        sft "sft/$seed" "$out/backbone" seed="$seed" model.num_layers=4
        # The peer: stage 2 from the same stage 1, on the same rows.
        "$python" recipes/open-small/peer.py --start "$out/weak/$seed/model" --data "$out/2_mine" --seed "$seed" \
            --output "$out/weak+st/$seed"
    done
    # As many steps of ours as the peer's time allows (measured: 2.3 times as many).
    sft "weak+sft_peers_time/0" "$out/weak/0/model" steps=180 save_every=180
    # Terms of Eq. 1 in stage 1.
    weak weak_no_qq_dd/0 loss.query_query=false loss.document_document=false
    weak weak_no_mask/0 loss.false_negative_margin=null loss.mask_identical=false loss.mask_same_query=false
    # A batch of 256 in the memory of 64: a quarter of the steps, the same examples.
    weak weak_batch_256/0 batch_size=256 steps=25
    # Stage 2: its negatives, its dims, its parameters.
    start=$out/weak/0/model
    random=() none=()
    for set in nl2bash conala squad-sent; do
        examples=$out/random/$set.jsonl
        [[ -f $examples ]] || "$python" recipes/open-small/random_negatives.py \
            --examples "$data/$set/train.jsonl" --corpus "$data/$set/corpus.jsonl" --output "$examples"
        random+=("data.$set.path=$examples")
        none+=("data.$set.max_negatives=0")
    done
    sft sft_random_negatives/0 "$start" "${random[@]}"
    sft sft_no_negatives/0 "$start" "${none[@]}"
    sft sft_no_matryoshka/0 "$start" "matryoshka_dims=[]"
    sft sft_lora/0 "$start" model.lora.rank=16 optimizer.lr=1.0e-3
fi

if [[ ${ONLY:-evaluate} == evaluate ]]; then
    # Every test query, over part of the corpus: 4,000 of 10,589 commands, 3,000 of 6,560 sentences.
    sample() { [[ -d $out/sets/$1 ]] || "$python" scripts/sample_set.py --set "$data/$1" --queries 100000 --documents "$2" --output "$out/sets/$1"; }
    sample nl2bash 4000
    sample squad-sent 3000
    models=(models.bm25=bm25 models.backbone="$out/backbone" num_layers.backbone=4)
    for path in "$out"/*/[0-9]; do  # RUN/SEED
        name=${path#"$out"/}
        [[ -d $path/model ]] && path=$path/model
        models+=("models.$name=$path")
    done
    # shellcheck disable=SC2086
    "$python" -m qwen3emb_train evaluate $recipe --config-name ablation "${models[@]}" \
        sets.nl2bash.path="$out/sets/nl2bash" sets.conala.path="$data/conala" sets.squad-sent.path="$out/sets/squad-sent" \
        sets.docs_en.path="$data/docs_en/test_mini" sets.code_py.path="$data/code_py/test_mini" \
        sets.wordnet_def.path="$data/wordnet_def/test_mini" output_dir="$out/ablation"
    "$python" recipes/open-small/table.py "$out/ablation"
fi
