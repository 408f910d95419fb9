#!/usr/bin/env bash
# The three stages on real public sets: weak pairs -> mine -> fine-tune -> merge -> export -> evaluate. Restartable.
# From the project's root:
#   DATA: the directory of the sets (default ~/.cache/qwen3emb-data; README.md says what lies in it)
#   PYTHON: the interpreter
#   ALL_LAYERS=1: for a GPU: all 30 layers and more steps; in a clone where the small run has not been made
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
data=${DATA:-$HOME/.cache/qwen3emb-data}
out=outputs/open-small
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() {  # PROGRAM NAME key=value ...
    local program=$1 name=$2
    shift 2
    "$python" -m qwen3emb_train "$program" --config-dir recipes/open-small --config-name "$name" "$@"
}

pretrain=() finetune=() merge=() evaluate=()
if [ -n "${ALL_LAYERS:-}" ]; then
    pretrain=(model.num_layers=null batch_size=1024 steps=${PRETRAIN_STEPS:-2000} optimizer.lr=1e-4 tokens_per_chunk=32768)
    finetune=(batch_size=256 steps=800 save_every=600 optimizer.lr=5e-5 tokens_per_chunk=32768)
    checkpoints=$out/3_finetune/checkpoints
    merge=("models=[$checkpoints/step_000600/model,$checkpoints/step_000800/model]")
    evaluate=(num_layers.backbone=30)
fi

"$python" -m qwen3emb_train convert_gguf output_dir="$out/backbone"
run train_embedding 1_pretrain data.docs_en.path="$data/docs_en/train.jsonl" \
    data.code_py.path="$data/code_py/train.jsonl" data.wordnet_def.path="$data/wordnet_def/train.jsonl" \
    ${pretrain[@]+"${pretrain[@]}"}
for set in nl2bash conala squad-sent; do
    run mine_negatives 2_mine examples="$data/$set/train.jsonl" corpus="$data/$set/corpus.jsonl" output_dir="$out/2_mine/$set"
done
run train_embedding 3_finetune ${finetune[@]+"${finetune[@]}"}
run merge 4_merge ${merge[@]+"${merge[@]}"}
run export 5_export
run evaluate 6_evaluate sets.nl2bash.path="$data/nl2bash" sets.conala.path="$data/conala" \
    sets.squad-sent.path="$data/squad-sent" sets.docs_en.path="$data/docs_en/test_mini" \
    sets.code_py.path="$data/code_py/test_mini" sets.wordnet_def.path="$data/wordnet_def/test_mini" \
    ${evaluate[@]+"${evaluate[@]}"}
"$python" -m qwen3emb_train report runs.1_pretrain="$out/1_pretrain" runs.3_finetune="$out/3_finetune" \
    evaluations.test="$out/6_evaluate" output_dir="$out/report"
printf '\nThe model: exports/open-small. The report: %s/report/report.html\n' "$out"
