"""What students say on the validation split of a cache of exact targets."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch

from cache.machine.precision import default_device
from cache.reading.reader import CacheReader
from cache.targets.soft_targets import SoftTargets


class HasKl(Protocol):
    """A measurement of a student."""

    @property
    def kl(self) -> float:
        """From the true teacher, nats a row."""
        ...


@torch.inference_mode()
def validation_rows(
    student, exact: CacheReader
) -> Iterator[tuple[torch.Tensor, torch.Tensor, SoftTargets]]:
    """Logits (N, V) fp32, labels (N,) and targets of each document's N rows.

    On the accelerator where there is one.
    """
    device = default_device()
    student.eval().to(device)
    for index in range(exact.num_documents("validation")):
        document = exact.read("validation", [index])
        ids = torch.from_numpy(document.token_ids).to(device)
        logits = student(ids.unsqueeze(0), use_cache=False).logits[0, :-1].float()
        yield logits, ids[1:], document.targets.to(device)


def way(found: Mapping[str, Sequence[HasKl]], kind: str, exact: str) -> float:
    """Share of the distance in KL from labels alone to exact targets; means over seeds."""
    labels, best, own = (
        statistics.fmean(one.kl for one in found[name]) for name in ("labels", exact, kind)
    )
    return (labels - own) / (labels - best)
