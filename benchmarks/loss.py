"""Head and loss, forward and backward: ours beside dense distillation, other libraries and CE.

Random weights and targets of the real sizes: time does not depend on the values. Every side runs
in a process of its own. Memory is what a step adds at its peak to what was there before it
(inputs, the dense teacher of the sides that want one, the tail's map); "less" leaves out the
gradients of hidden states and head, which every side must hold. Libraries that are not installed
are left out; into a folder of their own, named in PYTHONPATH, they come with

    pip install --no-deps --target DIR trl liger-kernel torchtune torchao==0.9.0 tiktoken \
        omegaconf antlr4-python3-runtime==4.9.3

    python benchmarks/loss.py --rows 2048 --widths 512,1024
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch.nn import functional

from cache.machine.precision import default_device
from cache.targets.soft_targets import SoftTargets
from cache.targets.tail_mass import NODES
from cache.targets.tails import EvenTail, LinearTail, NoTail, SampledTail, Tail, TailMap
from distill.loss.fused import SLICE_BYTES, head_losses
from distill.loss.terms import LossTerms

TEMPERATURE, ALPHA = 2.0, 0.5
Step = Callable[[], torch.Tensor]


class Inputs:
    """Hidden states (N, D), a head (V, D), labels, and teachers of every kind on demand."""

    def __init__(self, rows: int, vocab_size: int, width: int) -> None:
        torch.manual_seed(0)
        self.device = default_device()
        self.rows, self.vocab_size = rows, vocab_size
        self.hidden = self.random(rows, width).requires_grad_()
        self.head = self.random(vocab_size, width).mul_(0.02).requires_grad_()
        self.labels = torch.randint(vocab_size, (rows,), device=self.device)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device)

    def logits(self) -> torch.Tensor:
        return self.hidden @ self.head.T

    def targets(self, tail: Tail, top_k: int) -> SoftTargets:
        """Soft targets of which the k best tokens are k random ones."""
        first = torch.randint(self.vocab_size, (self.rows, 1), device=self.device)
        steps = torch.arange(top_k, device=self.device) * 701  # apart, and never the same twice
        logprobs = -torch.rand(self.rows, top_k, device=self.device).cumsum(-1) - 1
        return SoftTargets(
            vocab_size=self.vocab_size,
            topk_ids=(first + steps) % self.vocab_size,
            topk_logprobs=logprobs,
            tail=tail,
        )

    def log_mass(self) -> torch.Tensor:
        return self.random(self.rows, len(NODES)).sort(-1, descending=True).values - 2

    def linear(self, rank: int) -> LinearTail:
        basis = self.random(self.vocab_size, rank) / rank**0.5
        return LinearTail(
            log_mass=self.log_mass(),
            coefficients=self.random(self.rows, rank),
            shared=TailMap(basis, self.random(self.vocab_size)),
        )

    def sampled(self, draws: int) -> SampledTail:
        return SampledTail(
            log_mass=self.log_mass(),
            ids=torch.randint(self.vocab_size, (self.rows, draws), device=self.device),
            logprobs=-torch.rand(self.rows, draws, device=self.device) - 8,
            proposal_beta=0.5,
        )


def ours(inputs: Inputs, tail: Tail, top_k: int, divergence: str = "forward_kl") -> Step:
    """The fused loss from cached targets."""
    targets = inputs.targets(tail, top_k)
    terms = LossTerms(temperature=TEMPERATURE, alpha=ALPHA, divergence=divergence)
    return lambda: head_losses(inputs.hidden, inputs.head, inputs.labels, targets, terms).loss


def dense(inputs: Inputs) -> Step:
    """Plain torch, the teacher's probabilities at T given."""
    teacher = inputs.random(inputs.rows, inputs.vocab_size).softmax(-1)

    def step() -> torch.Tensor:
        logits = inputs.logits()
        log_q = (logits / TEMPERATURE).log_softmax(-1)
        kl = functional.kl_div(log_q, teacher, reduction="sum")
        ce = functional.nll_loss(logits.log_softmax(-1), inputs.labels, reduction="sum")
        return ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * ce

    return step


def cross_entropy(inputs: Inputs) -> Step:
    """No teacher at all."""
    return lambda: functional.cross_entropy(inputs.logits(), inputs.labels, reduction="sum")


class Products(torch.autograd.Function):
    """A head's three matrix products over slices of rows, and nothing else: the floor."""

    @staticmethod
    def forward(ctx, hidden, head):
        hidden_grad, head_grad = torch.empty_like(hidden), torch.zeros_like(head)
        size = SLICE_BYTES // (4 * len(head))
        buffer = hidden.new_empty(size, len(head))
        for start in range(0, len(hidden), size):
            part = hidden[start : start + size]
            logits = torch.mm(part, head.T, out=buffer[: len(part)])
            torch.mm(logits, head, out=hidden_grad[start : start + size])
            head_grad.addmm_(logits.T, part)
        ctx.save_for_backward(hidden_grad, head_grad)
        return hidden_grad.sum()

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors


def trl(inputs: Inputs) -> Step:
    """The KL of GKDTrainer (no cross-entropy), teacher logits given."""
    from trl.experimental.gkd import GKDTrainer

    teacher = inputs.random(1, inputs.rows, inputs.vocab_size)
    loss = GKDTrainer.generalized_jsd_loss
    return lambda: loss(inputs.logits().unsqueeze(0), teacher, beta=0, temperature=TEMPERATURE)


def torchtune(inputs: Inputs) -> Step:
    """Its recipe's chunked losses at T = 1 (it has no other), teacher logits given."""
    from torchtune.modules.loss import CEWithChunkedOutputLoss, ForwardKLWithChunkedOutputLoss

    ce_loss, kl_loss = CEWithChunkedOutputLoss(8), ForwardKLWithChunkedOutputLoss(8)
    teacher = list(inputs.random(1, inputs.rows, inputs.vocab_size).chunk(8, dim=1))
    labels = inputs.labels.unsqueeze(0)

    def step() -> torch.Tensor:
        chunks = inputs.hidden.unsqueeze(0).chunk(8, dim=1)
        logits = [chunk @ inputs.head.T for chunk in chunks]
        return ALPHA * kl_loss(logits, teacher, labels) + (1 - ALPHA) * ce_loss(logits, labels)

    return step


def liger(inputs: Inputs) -> Step:
    """Its fused distillation (chunks of 1,024 rows, not compiled) from hidden states of 576."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(beta=0.0, temperature=TEMPERATURE, compiled=False)
    states, head = inputs.random(inputs.rows, 576), inputs.random(inputs.vocab_size, 576)
    return lambda: loss(inputs.hidden, inputs.head, states, head, inputs.labels)


SIDES: dict[str, Callable[[Inputs], Step]] = {
    "dense KD": dense,
    "CE alone": cross_entropy,
    "three products alone": lambda i: lambda: Products.apply(i.hidden, i.head),
    "renormalize, k=16": lambda i: ours(i, NoTail(), 16),
    "mass, k=16": lambda i: ours(i, EvenTail(num_tokens=i.vocab_size, log_mass=i.log_mass()), 16),
    "mass, k=64": lambda i: ours(i, EvenTail(num_tokens=i.vocab_size, log_mass=i.log_mass()), 64),
    "sampled, 32 draws": lambda i: ours(i, i.sampled(32), 16),
    "lowrank, R=64": lambda i: ours(i, i.linear(64), 16),
    "lowrank or hidden, R=576": lambda i: ours(i, i.linear(576), 16),
    "reverse KL, R=64": lambda i: ours(i, i.linear(64), 16, "reverse_kl"),
    "Jensen-Shannon, R=64": lambda i: ours(i, i.linear(64), 16, "jensen_shannon"),
    "total variation, R=64": lambda i: ours(i, i.linear(64), 16, "total_variation"),
    "trl": trl,
    "torchtune": torchtune,
    "liger, hidden 576": liger,
}


def run(side: str, rows: int, vocab_size: int, width: int, repeats: int) -> tuple[float, float]:
    """Seconds of the best step, and MiB that the first one added at its peak."""
    inputs = Inputs(rows, vocab_size, width)
    step = SIDES[side](inputs)
    before = resident_bytes(inputs.device, reset_peak=True)
    best = float("inf")
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        step().backward()
        if inputs.device.type != "cpu":
            torch.accelerator.synchronize()
        if repeat:  # the first step warms up, and its peak is measured
            best = min(best, time.perf_counter() - started)
        else:
            peak = resident_bytes(inputs.device, reset_peak=False)
        inputs.hidden.grad = inputs.head.grad = None
    return best, (peak - before) / 2**20


def resident_bytes(device: torch.device, *, reset_peak: bool) -> int:
    """Bytes now (and the peak forgotten), or the bytes at the peak since then."""
    if device.type == "cuda":
        if reset_peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class NotInstalled(Exception):
    """A side needs a package that is not there."""


def measure(side: str, *sizes: int) -> tuple[float, float]:
    """Seconds and MiB of `run` in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--rows", str(sizes[0])]
    command += ["--vocab-size", str(sizes[1]), "--widths", str(sizes[2]), "--repeats"]
    done = subprocess.run([*command, str(sizes[3])], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        raise NotInstalled(done.stderr.strip().splitlines()[-1])
    done.check_returncode()
    seconds, mib = done.stdout.split()[-2:]  # what libraries print on import goes before
    return float(seconds), float(mib)


@click.command()
@click.option("--rows", default=2048)
@click.option("--vocab-size", default=49152)
@click.option("--widths", default="512,1024", help="Of the student.")
@click.option("--repeats", default=3)
@click.option("--side", type=click.Choice(SIDES), help="Measure this one, in this process.")
def main(rows: int, vocab_size: int, widths: str, repeats: int, side: str | None) -> None:
    """Print time and memory of every side, and their ratio to dense distillation and to CE."""
    if side is not None:
        print(*run(side, rows, vocab_size, int(widths), repeats))
        return
    for width in map(int, widths.split(",")):
        print(f"N = {rows}, V = {vocab_size}, D = {width}, {torch.get_num_threads()} threads")
        columns = ("ms", "x dense", "x CE", "MiB", "x dense", "less", "x dense")
        print(f"{'':26s}" + "".join(f"{column:>9s}" for column in columns))
        gradients_mib = (rows + vocab_size) * width * 4 / 2**20
        yardsticks = ("dense KD", "CE alone")
        found = {name: measure(name, rows, vocab_size, width, repeats) for name in yardsticks}
        for name in SIDES:
            try:
                seconds, mib = found.get(name) or measure(name, rows, vocab_size, width, repeats)
            except NotInstalled as missing:
                print(f"{name:26s} {missing}")
                continue
            (ce_seconds, _), (dense_seconds, dense_mib) = found["CE alone"], found["dense KD"]
            less, dense_less = mib - gradients_mib, dense_mib - gradients_mib
            print(
                f"{name:26s}{seconds * 1e3:9.0f}{seconds / dense_seconds:9.2f}"
                f"{seconds / ce_seconds:9.2f}{mib:9.0f}{mib / dense_mib:9.3f}"
                f"{less:9.0f}{less / dense_less:9.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
