"""The comparison as a table in Weights & Biases."""

from pathlib import Path

import wandb

from evaluation.comparison.result import BenchmarkResult
from evaluation.report.tables import flat_rows


def log_table(result: BenchmarkResult, *, mode: str, project: str, folder: Path) -> None:
    """Log rows, settings and charts as one run; `offline` needs neither account nor network."""
    run = wandb.init(
        project=project,
        job_type="evaluate",
        mode="offline" if mode == "offline" else "online",
        dir=str(folder),
        config={**result.config, "signatures": result.signatures},
    )
    try:
        rows = flat_rows([row.to_json() for row in result.rows])
        columns: list[str | int] = list(rows[0])
        run.log(
            {
                "comparison": wandb.Table(
                    columns=columns, data=[list(row.values()) for row in rows]
                ),
                **{
                    path.stem: wandb.Html(path.read_text(encoding="utf-8"), inject=False)
                    for path in sorted(folder.glob("quality-vs-*.svg"))
                },
            }
        )
    finally:
        run.finish()
