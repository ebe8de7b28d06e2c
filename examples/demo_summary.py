"""What the demo has shown, in plain words.

python examples/demo_summary.py FOLDER
"""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Read the report and the sweep's ledger, and say what they hold."""
    report = json.loads((folder / "report/results.json").read_text())
    teacher, *students = sorted(report["rows"], key=lambda row: not row["is_teacher"])
    print(f"\nOf {report['num_problems']} problems that none of them was trained on,")
    print(f"  the teacher solves {solved(teacher)};")
    for row in students:
        print(
            f"  {row['label']} ({row['training']['start']}) solves {solved(row)}, at "
            f"{row['speedup']:.1f} times the teacher's speed and {1 / row['compression']:.0%} of "
            f"its size; KL from it: {row['agreement']['whole']['kl']:.2f} nats a token."
        )
    ledger = json.loads((folder / "students/ledger.json").read_text())
    read, asked = ledger["measured"]["cache_tokens"], ledger["computed"]["loop_tokens"]
    print(
        f"The teacher read {read:,} tokens, once; in both students' training it would have read "
        f"{asked:,}. Every further student is free of it."
    )
    print(f"The page: {folder / 'report/report.html'}    Loss curves: {folder / 'students/plots'}")


def solved(row: dict) -> str:
    """Problems solved by the greedy completion, and the 95 % interval of their share."""
    low, high = row["greedy_interval"]
    return f"{sum(row['greedy_passed'].values())} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
