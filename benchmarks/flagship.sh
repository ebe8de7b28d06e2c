#!/usr/bin/env bash
# The whole claim in one run: what students of 20, 18, 16 and 12 of a teacher's 24 layers, two of all
# its layers with fewer neurons, and one from random weights, keep of it: as they are cut, fitted to
# the teacher's states, and then trained, from the cache or by labels alone. Hours on two CPU cores;
# given again, it goes on where it stopped.
# It has not been run to its end yet.
#
#     TEACHER=folder MBPP=mbpp.jsonl OUT=runs/flagship benchmarks/flagship.sh
#
# TEACHER and MBPP are a hub id, a folder or a file. LIMIT takes the first problems alone (of the
# benchmarks, and of what lessons are written for), LAYERS and NEURONS other students. DTYPE is
# that of all models, JOBS how many students train at a time, BATCH how many completions are
# generated at once; LESSONS and EVALUATE are further options of write-lessons and evaluate.
# RECONSTRUCT is how many tokens cuts are fitted on, STEPS ends each training after so many. Fitted
# cuts learn by adapters (peft): steps of all their weights took away what the fit had given.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
teacher=${TEACHER:-Qwen/Qwen2.5-Coder-0.5B-Instruct}
mbpp=${MBPP:-google-research-datasets/mbpp}
out=${OUT:-runs/flagship}
layers=${LAYERS:-20 18 16 12}
neurons=${NEURONS:-3940 2432} # the first: as many weights as 20 layers have
reconstruct=${RECONSTRUCT:-50000}
dtype=${DTYPE:-auto}
jobs=${JOBS:-1}
batch=${BATCH:-16}
samples=${SAMPLES:-16}
template=${TEMPLATE:-signature} # the shape of HumanEval's prompts
limit=${LIMIT:+--limit $LIMIT}
scratch=${SCRATCH:-44m}
epochs=${EPOCHS:-3}
steps=${STEPS:-null}
mkdir -p "$out"
part() {
    echo
    echo "\$ $*"
    "$@"
}

[ -f "$out/lessons.jsonl" ] || part "$python" cli.py write-lessons --teacher "$teacher" \
    --dataset "$mbpp" --samples "$samples" --max-new-tokens 256 --batch-size "$batch" \
    --dtype "$dtype" $limit ${LESSONS:-} --out "$out/lessons.jsonl"
part "$python" cli.py cache-teacher --teacher "$teacher" --dataset "$mbpp" \
    --dataset "$out/lessons.jsonl" --template "$template" --dtype "$dtype" $limit \
    --out "$out/cache"
cut() {
    local name=$1
    shift
    [ -d "$out/cut/$name" ] || part "$python" cli.py init-student --teacher "$teacher" \
        --cache "$out/cache" --out "$out/cut/$name" "$@"
}
among=() # each size is chosen among the layers of the one before
for number in $(printf '%s\n' $layers | sort -rn); do
    cut "layers$number" --layers "$number" --choose kl "${among[@]}"
    kept=$("$python" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["kept_layers"], sep=",")' \
        "$out/cut/layers$number/student.json")
    among=(--keep "$kept")
    cut "layers$number-fitted" --keep "$kept" --reconstruct "$reconstruct"
done
for number in $neurons; do
    cut "neurons$number" --feed-forward "$number"
    cut "neurons$number-fitted" --feed-forward "$number" --reconstruct "$reconstruct"
done
{
    echo "defaults: {temperature: 1.0, batch_size: 8, accumulate: 1, lr_schedule: cosine,"
    echo "           warmup_ratio: 0.1, epochs: $epochs, max_steps: $steps, precision: $dtype}"
    echo "recipes:"
    for folder in "$out"/cut/*-fitted; do
        name=$(basename "$folder" -fitted)
        learns="student: $folder, lora_rank: 16, lr: 2.0e-4"
        echo "  - {name: $name-cache, $learns, alpha: 1.0}"
        echo "  - {name: $name-labels, $learns, alpha: 0.0}"
    done
    echo "  - {name: scratch, student: $scratch, alpha: 0.5, lr: 1.0e-3}"
} > "$out/recipes.yaml"
part "$python" cli.py sweep --cache "$out/cache" --recipes "$out/recipes.yaml" \
    --out "$out/students" --jobs "$jobs"
for benchmark in humaneval mbpp; do
    own=(--as-draft 5)
    [ $benchmark = humaneval ] || own=(--dataset "$mbpp" --template "$template")
    part "$python" cli.py evaluate --checkpoints "$out"/students/* "$out"/cut/* \
        --teacher "$teacher" --benchmark $benchmark "${own[@]}" $limit --samples 0 \
        --max-new-tokens 256 --batch-size "$batch" --dtype "$dtype" --cache "$out/cache" \
        ${EVALUATE:-} --out "$out/$benchmark"
done
echo
echo "Pages: $out/humaneval/report.html $out/mbpp/report.html    Costs: $out/students/ledger.json"
