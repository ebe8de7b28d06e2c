"""Does fidelity matter? One small student, several seeds, trained from four kinds of targets.

Builds a cache of each kind from one teacher (renormalised top-64, exact mass, the default, and
hidden states, which are dense targets), trains the same student from each with every seed, and
measures the KL to the true teacher on the validation split at the recipe's temperature, always
with the dense targets. Runs that are there are not repeated.

    python benchmarks/students.py --teacher bigcode/starcoder2-3b --work runs/students-benchmark
"""

import statistics
from pathlib import Path

import click
import torch
from transformers import AutoModelForCausalLM

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.loss.terms import sparse_kl_sum
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe

KINDS = {
    "renormalised": TargetFormat(top_k=64, logprob_bits=16, tail="renormalize"),
    "mass": TargetFormat(top_k=64, tail="mass"),
    "default": TargetFormat(),
    "dense": TargetFormat(tail="hidden"),
}


@torch.inference_mode()
def validation_kl(student_path: Path, dense: CacheReader, temperature: float) -> float:
    """Mean KL(teacher_T ‖ student_T) over the validation rows, in nats."""
    student = AutoModelForCausalLM.from_pretrained(student_path).eval()
    total, num_rows = 0.0, 0
    for index in range(dense.num_documents("validation")):
        document = dense.read("validation", [index])
        ids = torch.from_numpy(document.token_ids).unsqueeze(0)
        logits = student(ids).logits[0, :-1]
        total += float(sparse_kl_sum(logits, document.targets, temperature))
        num_rows += document.targets.num_rows
    return total / num_rows


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--limit", default=60, help="Documents of each split.")
@click.option("--student", default="2x128x2")
@click.option("--epochs", default=6)
@click.option("--lr", default=2e-3)
@click.option("--temperature", default=2.0)
@click.option("--alpha", default=1.0, help="1: nothing but the teacher's term.")
@click.option("--seeds", default=3)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(teacher, dataset, limit, student, epochs, lr, temperature, alpha, seeds, work):
    """Print the validation KL of each kind of target: mean and range over seeds."""
    for kind, targets in KINDS.items():
        build_cache(
            BuildConfig(
                out=work / "caches" / kind,
                teacher=teacher,
                dataset=dataset,
                limit=limit,
                targets=targets,
                batch_tokens=2048,
            )  # fmt: skip
        )
    print(f"student {student}, {epochs} epochs, T = {temperature:g}, alpha = {alpha:g}")
    print(f"{'targets':14s} {'validation KL':>14s} {'min':>8s} {'max':>8s}")
    with CacheReader(work / "caches" / "dense") as dense:
        for kind in KINDS:
            found = []
            for seed in range(seeds):
                recipe = Recipe(
                    name=f"{kind}-{seed}", student=student, temperature=temperature, alpha=alpha,
                    epochs=epochs, lr=lr, accumulate=1, seed=seed,
                )  # fmt: skip
                out = work / "students" / recipe.name
                if not (out / "config.json").is_file():
                    train(
                        TrainConfig(
                            cache=work / "caches" / kind,
                            recipe=recipe,
                            out=out,
                            resume=True,
                            wandb="disabled",
                        )  # fmt: skip
                    )
                found.append(validation_kl(out, dense, temperature))
            mean = statistics.fmean(found)
            print(f"{kind:14s} {mean:14.4f} {min(found):8.4f} {max(found):8.4f}", flush=True)


if __name__ == "__main__":
    main()
