"""The field's ways of keeping a teacher's targets, side by side on one student.

One cache of exact targets is built with the teacher; every other kind is made of it. One student is
trained on each kind at equal tokens, with several seeds, at each temperature, and measured on the
validation split: KL from the exact targets at that temperature; at T = 1 cross-entropy and expected
calibration error (15 bins of the likeliest token's probability, Guo et al. 2017). "Way" is how far
a kind comes from labels alone to exact targets in KL; "angle" is between its gradient and that of
exact targets, by all weights of the untrained student on the first documents. Bytes are those of
the shards.

`+ label` puts the mass outside the top-k on the token that follows, `ghost` compares it in one
bucket (both in Anshumann et al. 2025, "Sparse Logit Sampling"); neither is offered by `train`: they
live here. What was trained is not trained again.

    python benchmarks/targets.py --teacher SmolLM2-135M --work runs/targets --student 2x128x2
"""

import json
import math
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import click
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from validation import validation_rows, way

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CachedDocuments, CacheReader
from cache.storage.facts import split_sizes
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.targets.tails import EvenTail, TargetDistribution, plogp, split_mass
from cache.tools.reencode import reencode_cache
from distill.batches.batch import collate, padding_id
from distill.learning.learner import Learner
from distill.learning.objective import Objective, row_states
from distill.learning.precision import start_accelerator
from distill.learning.student import first_student
from distill.loss.terms import LossSums, sparse_kl_sum
from distill.run.checkpoint import seed_process
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe

EXACT = "hidden"
FORMATS = {
    **{f"renormalised {k}": TargetFormat(top_k=k, tail="renormalize") for k in (16, 64, 256)},
    "top-64 + label": TargetFormat(top_k=64, tail="mass"),
    "top-64, ghost": TargetFormat(top_k=64, tail="mass"),
    "sampled 12": TargetFormat(top_k=1, tail="sampled", tail_samples=12),
    "sampled 32": TargetFormat(top_k=8, tail="sampled", tail_samples=32),
    "mass, even 64": TargetFormat(top_k=64, tail="mass"),
    "default": TargetFormat(),
    EXACT: TargetFormat(top_k=256, tail="hidden", logprob_bits=16),
}
KINDS = ("labels", *FORMATS)
NUM_BINS = 15
ANGLE_DOCUMENTS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTail:
    """All mass outside the top-k on the token that follows."""

    even: EvenTail
    labels: torch.Tensor
    """(N,) int64."""

    def map(self, change) -> "LabelTail":
        return replace(self, even=self.even.map(change), labels=change(self.labels))

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        log_probs, log_tail = split_mass(logprobs, self.even.log_mass, beta)
        probs, tail = log_probs.exp(), log_tail.exp()  # (N, K), (N,)
        there = (ids == self.labels.unsqueeze(-1)) & logprobs.isfinite()
        probs = torch.where(there, probs + tail.unsqueeze(-1), probs)
        own = tail.masked_fill(there.any(-1), 0.0).unsqueeze(-1)
        probs, ids = torch.cat([probs, own], -1), torch.cat([ids, self.labels.unsqueeze(-1)], -1)
        return TargetDistribution(
            ids=ids, probs=probs, uniform=None, rest=None,
            named_neg_entropy=plogp(probs, probs.clamp_min(1e-30).log()),
        )  # fmt: skip


class Labelled:
    """A reader whose mass tails are on labels."""

    def __init__(self, reader: CacheReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, split: str, indices) -> CachedDocuments:
        found = self._reader.read(split, indices)
        follows = np.ones(len(found.token_ids), dtype=bool)
        follows[found.token_offsets[:-1]] = False
        labels = torch.from_numpy(found.token_ids[follows].astype(np.int64))
        tail: Any = found.targets.tail
        targets = replace(found.targets, tail=LabelTail(even=tail, labels=labels))
        return replace(found, targets=targets)


class GhostObjective(Objective):
    """Σ p log(p / q) over the top-k, and over all others in one bucket."""

    def _losses(self, hidden: torch.Tensor, batch) -> LossSums:
        terms, targets = self.terms, batch.targets
        logits = torch.nn.functional.linear(hidden, self._head).float()
        log_p, log_rest = split_mass(
            targets.topk_logprobs, targets.tail.log_mass, 1 / terms.temperature
        )
        log_q = (logits / terms.temperature).log_softmax(-1)
        named = log_q.gather(-1, targets.topk_ids)
        used = targets.topk_logprobs.isfinite()
        held = named.masked_fill(~used, -torch.inf).logsumexp(-1)
        other = torch.log1p(-held.clamp_max(-1e-7).exp())
        kl = torch.where(used, log_p.exp() * (log_p - named), 0.0).sum(-1)
        kl = (kl + log_rest.exp() * (log_rest - other)).sum()
        ce = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        distillation = terms.temperature**2 * kl
        loss = terms.alpha * distillation + (1 - terms.alpha) * ce
        return LossSums(loss, distillation.detach(), ce.detach())


class Measured(NamedTuple):
    """On the validation split."""

    kl: float
    """At the temperature of the training."""
    ce: float
    ece: float
    step_ms: float


def measure(student, exact: CacheReader, temperature: float, step_ms: float) -> Measured:
    """KL from the teacher and cross-entropy, nats a row, and expected calibration error."""
    kl, ce, sure, right = 0.0, 0.0, [], []
    for logits, labels, targets in validation_rows(student, exact):
        kl += float(sparse_kl_sum(logits, targets, temperature))
        ce += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        likeliest = logits.softmax(-1).max(-1)
        sure.append(likeliest.values)
        right.append(likeliest.indices == labels)
    error = calibration_error(torch.cat(sure).cpu(), torch.cat(right).float().cpu())
    num_rows = sum(map(len, sure))
    return Measured(kl / num_rows, ce / num_rows, error, step_ms)


def calibration_error(sure: torch.Tensor, right: torch.Tensor) -> float:
    """Σ over bins of their share of rows times |mean confidence - share that is right|."""
    bins = (sure * NUM_BINS).long().clamp_max(NUM_BINS - 1)
    sums = torch.zeros(NUM_BINS).index_add(0, bins, sure - right)
    return float(sums.abs().sum() / len(sure))


def reader_of(kind: str, work: Path) -> Any:
    """The cache of a kind; of labels alone, that of exact targets."""
    reader = CacheReader(work / "caches" / folder_of(kind))
    return Labelled(reader) if kind.endswith("+ label") else reader


def folder_of(kind: str) -> str:
    """Kinds of one format share a cache."""
    targets = FORMATS[EXACT if kind == "labels" else kind]
    return next(name for name, other in FORMATS.items() if other == targets).replace(" ", "-")


def objective_of(kind: str) -> type[Objective]:
    return GhostObjective if kind.endswith("ghost") else Objective


def trained(recipe: Recipe, kind: str, work: Path, exact: CacheReader) -> Measured:
    """The student of a recipe and a kind, measured once."""
    file = work / "measured" / f"{recipe.name}.json"
    if not file.is_file():
        out = work / "students" / recipe.name
        config = TrainConfig(
            cache=exact.path, recipe=recipe, out=out, resume=True, wandb="disabled"
        )
        with patch("distill.learning.learner.Objective", objective_of(kind)):
            if not (out / "config.json").is_file():
                train(config, reader=reader_of(kind, work))
        run = json.loads((out / "run.json").read_text())
        step_ms = 1000 * run["seconds"] / run["steps"]
        student = AutoModelForCausalLM.from_pretrained(out)
        found = measure(student, exact, recipe.temperature, step_ms)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found))
    return Measured(*json.loads(file.read_text()))


def gradient(recipe: Recipe, kind: str, work: Path) -> torch.Tensor:
    """Of the teacher's term alone, by all weights of the untrained student, in one vector."""
    reader = reader_of(kind, work)
    seed_process(0, rank=0)
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    student = first_student(recipe, reader, tokenizer).eval()
    learner = Learner(student, recipe, start_accelerator("fp32"), num_steps=1)
    objective = objective_of(kind)(student, learner.objective.terms)
    count = min(ANGLE_DOCUMENTS, reader.num_documents("train"))
    for index in range(count):
        batch = collate(reader.read("train", [index]), pad_id=padding_id(tokenizer))
        batch = batch.to(learner.accelerator.device)
        objective._losses(row_states(student, batch), batch).loss.backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def degrees(one: torch.Tensor, other: torch.Tensor) -> float:
    cosine = torch.cosine_similarity(one.double(), other.double(), dim=0)
    return math.degrees(math.acos(min(1.0, float(cosine))))


def bytes_a_token(kind: str, work: Path) -> float:
    """Of the shards, over tokens; labels alone need none of it."""
    if kind == "labels":
        return 0.0
    sizes = split_sizes(Manifest.read(work / "caches" / folder_of(kind)))
    return sum(size.num_bytes for size in sizes) / sum(size.num_tokens for size in sizes)


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--limit", default=60, help="Documents of each split.")
@click.option("--student", default="2x128x2")
@click.option("--kind", "kinds", multiple=True, default=KINDS, type=click.Choice(KINDS))
@click.option("--temperature", "temperatures", multiple=True, default=[1.0, 2.0])
@click.option("--alpha", default=0.5)
@click.option("--epochs", default=4)
@click.option("--lr", default=1e-3)
@click.option("--seeds", default=3)
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    teacher, dataset, limit, student, kinds, temperatures, alpha, epochs, lr, seeds, work
) -> None:
    """Print a line for each temperature and kind: means over seeds, and the range of KL."""
    exact_path = work / "caches" / folder_of(EXACT)
    build_cache(
        BuildConfig(
            out=exact_path, teacher=teacher, dataset=dataset, limit=limit,
            targets=FORMATS[EXACT], batch_tokens=2048,
        )
    )  # fmt: skip
    for kind in kinds:
        path = work / "caches" / folder_of(kind)
        if not (path / "manifest.json").is_file():
            reencode_cache(exact_path, path, FORMATS[kind])
    print(f"{student}, {epochs} epochs, alpha = {alpha:g}, {seeds} seeds; nats")
    with CacheReader(exact_path) as exact:
        for temperature in temperatures:
            recipe = Recipe(
                name="x", student=student, temperature=temperature, alpha=alpha, epochs=epochs,
                lr=lr, accumulate=1, sample_prompts=0,
            )  # fmt: skip
            found = {
                kind: [_run(recipe, kind, seed, work, exact) for seed in range(seeds)]
                for kind in kinds
            }
            show(found, recipe, work)


def _run(recipe: Recipe, kind: str, seed: int, work: Path, exact: CacheReader) -> Measured:
    named = "".join(letter if letter.isalnum() else "-" for letter in kind)
    changed = {
        **asdict(recipe),
        "name": f"{named}-T{recipe.temperature:g}-{seed}",
        "alpha": 0.0 if kind == "labels" else recipe.alpha,
        "seed": seed,
    }
    return trained(Recipe(**changed), kind, work, exact)


def show(found: dict[str, list[Measured]], recipe: Recipe, work: Path) -> None:
    """The table of a temperature."""
    alone = replace(recipe, alpha=1.0)
    there = gradient(alone, EXACT, work)
    print(
        f"\nT = {recipe.temperature:g}\n{'trained on':17s} {'bytes':>7s} {'KL':>7s} {'min':>7s} "
        f"{'max':>7s} {'CE':>7s} {'way':>6s} {'ECE':>6s} {'angle':>6s} {'ms/step':>8s}"
    )
    for kind, runs in found.items():
        kls = [one.kl for one in runs]
        share = angle = float("nan")
        if {"labels", EXACT} <= set(found):
            share = way(found, kind, EXACT)
        if kind != "labels":
            angle = degrees(gradient(alone, kind, work), there)
        print(
            f"{kind:17s} {bytes_a_token(kind, work):7.1f} {statistics.fmean(kls):7.4f} "
            f"{min(kls):7.4f} {max(kls):7.4f} "
            f"{statistics.fmean(one.ce for one in runs):7.4f} {share:6.0%} "
            f"{statistics.fmean(one.ece for one in runs):6.3f} {angle:6.1f} "
            f"{statistics.fmean(one.step_ms for one in runs):8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
