#!/usr/bin/env bash
# Run on an H100 up to the generation; what is left is in docs/gpu.md. Its figures go to RESULTS.md.
#
# What only a GPU can tell, in one command of under ten minutes on a card of 24 GB or more:
#
#     benchmarks/gpu.sh            # StarCoder2-3B's real configuration, random weights, bf16
#     benchmarks/gpu.sh --tiny     # at tiny size, on a CPU too: only shows that it runs
#
# OUT (runs/gpu) holds what it writes, 7 GB; TOKENIZER is a hub id or a folder. A part that fails
# does not stop the others; the last lines say which did.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/gpu}
tokenizer=${TOKENIZER:-bigcode/starcoder2-3b}
data=examples/problems.jsonl
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"

tiny=() students=(44m 202m) documents=32 batch=8192 rows=2048 vocab=49152 widths=512,1024
prompts=32 new_tokens=128 repeats=3 steps=8
if [ "${1:-}" = --tiny ]; then
    tiny=(--tiny) students=(1x16x1) documents=4 batch=1024 rows=32 vocab=600 widths=16
    prompts=2 new_tokens=8 repeats=1 steps=1
fi
failed=()

part() { # name, then the command
    local name=$1
    shift
    echo
    echo "== $name: $*"
    SECONDS=0
    "$@" || failed+=("$name")
    echo "== $name took ${SECONDS} s"
}

"$python" -c 'import torch; d = torch.accelerator.current_accelerator(check_available=True)
print(torch.cuda.get_device_name() if d and d.type == "cuda" else d or "cpu", torch.__version__)'

part tests "$python" -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py
part teacher "$python" benchmarks/random_teacher.py "${tiny[@]}" --tokenizer "$tokenizer" \
    --out "$out/teacher"
part stage_one "$python" benchmarks/stage_one.py --teacher "$out/teacher" --dataset $data \
    --limit $documents --batch-tokens $batch --repeats $repeats
part cache "$python" cli.py cache-teacher --teacher "$out/teacher" --dataset $data \
    --limit $documents --batch-tokens $batch --tail hidden --out "$out/hidden"
part mass "$python" cli.py cache reencode "$out/hidden" "$out/mass" --tail mass
part lowrank "$python" cli.py cache reencode "$out/hidden" "$out/lowrank" --tail lowrank
for student in "${students[@]}"; do
    part "step_$student" "$python" benchmarks/step.py --teacher "$out/teacher" \
        --cache "$out/mass" --cache "$out/lowrank" --student "$student" --steps $steps \
        --repeats $repeats
done
part loss "$python" benchmarks/loss.py --rows $rows --vocab-size $vocab --widths $widths \
    --repeats $repeats
part generation "$python" benchmarks/generation.py --student "${students[0]}" \
    --tokenizer "$out/teacher" --prompts $prompts --new-tokens $new_tokens \
    --batch-size $prompts --repeats $repeats --temperature 0
for precision in auto $([ ${#tiny[@]} -gt 0 ] || echo fp16); do
    run=("$python" cli.py train --cache "$out/lowrank" --recipe model_44m_t2.0_a0.5
        --student "${students[0]}" --precision "$precision" --wandb disabled --save-every 1
        --out "$out/run_$precision")
    part "train_$precision" "${run[@]}" --epochs 1
    part "resume_$precision" "${run[@]}" --epochs 2 --resume
done

echo
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "all parts passed"
