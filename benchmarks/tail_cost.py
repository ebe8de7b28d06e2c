"""What a tail adds to the student's step: head and loss, forward and backward, for each tail.

Random weights and targets of the real sizes: time does not depend on the values. The share of a
whole step is smaller by what the student's trunk takes.

    python benchmarks/tail_cost.py --width 512
"""

import time

import click
import torch

from cache.soft_targets import SoftTargets
from cache.tail_mass import NODES
from cache.tails import EvenTail, LinearTail, NoTail, SampledTail, Tail, TailMap
from distill.fused import head_losses
from distill.loss import LossTerms


def tails(rows: int, vocab_size: int, device: torch.device) -> dict[str, Tail]:
    """One tail of each kind, and linear ones of several ranks."""
    log_mass = torch.randn(rows, len(NODES), device=device).sort(-1, descending=True).values - 2

    def linear(rank: int) -> LinearTail:
        return LinearTail(
            log_mass=log_mass,
            coefficients=torch.randn(rows, rank, device=device),
            shared=TailMap(
                torch.randn(vocab_size, rank, device=device) / rank**0.5,
                torch.zeros(vocab_size, device=device),
            ),
        )

    sampled = SampledTail(
        log_mass=log_mass,
        ids=torch.randint(vocab_size, (rows, 32), device=device),
        logprobs=-torch.rand(rows, 32, device=device) - 8,
        proposal_beta=0.5,
    )
    even = EvenTail(vocab_size=vocab_size, log_mass=log_mass)
    named: dict[str, Tail] = {"renormalize": NoTail(), "mass": even, "sampled, 32": sampled}
    return named | {f"lowrank, {r}": linear(r) for r in (64, 128, 256, 512)}


@click.command()
@click.option("--rows", default=512)
@click.option("--vocab-size", default=49152)
@click.option("--width", default=512, help="Of the student.")
@click.option("--top-k", default=16)
@click.option("--repeats", default=5)
def main(rows: int, vocab_size: int, width: int, top_k: int, repeats: int):
    """Print ms of head and loss, forward and backward, and the ratio to `mass`."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, requires_grad=True)
    head = torch.randn(vocab_size, width, device=device).mul_(0.02).requires_grad_()
    labels = torch.randint(vocab_size, (rows,), device=device)
    ids = torch.rand(rows, vocab_size, device=device).topk(top_k).indices
    logprobs = -torch.rand(rows, top_k, device=device).cumsum(-1) - 1

    def step(targets: SoftTargets) -> None:
        terms = LossTerms(temperature=2.0, alpha=0.5)
        head_losses(hidden, head, labels, targets, terms).loss.backward()
        hidden.grad = head.grad = None
        if device.type != "cpu":
            torch.accelerator.synchronize()

    best: dict[str, float] = {}
    sides = tails(rows, vocab_size, device)
    for repeat in range(repeats + 1):  # the first round warms up
        for name, tail in sides.items():
            targets = SoftTargets(
                vocab_size=vocab_size, topk_ids=ids, topk_logprobs=logprobs, tail=tail
            )
            started = time.perf_counter()
            step(targets)
            if repeat:
                best[name] = min(best.get(name, 1e9), time.perf_counter() - started)
    for name, seconds in best.items():
        print(f"{name:14s} {seconds * 1e3:9.1f} ms  {seconds / best['mass']:6.2f} x mass")


if __name__ == "__main__":
    main()
