"""What comparing a cache with its teacher found: worst differences, means, faults by document.

N rows.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from cache.targets.fidelity import Fidelity
from cache.tools.live_rows import TEMPERATURES, VARIATION, RowComparison, join


@dataclass(frozen=True, kw_only=True)
class LiveFault:
    """The worst row of a document in one quantity that the teacher does not confirm."""

    split: str
    index: int
    """Of the document in its split."""
    task_id: int
    row: int
    """Of the document: the distribution over its token `row + 1`."""
    quantity: str
    stored: float
    live: float
    tolerance: float
    num_rows: int
    """Rows of the document beyond the tolerance in this quantity."""

    def __str__(self) -> str:
        return (
            f"{self.split} document {self.index} (task_id {self.task_id}), row {self.row}: "
            f"{self.quantity} is {self.stored:.4f}, made anew {self.live:.4f}; a difference of "
            f"{self.tolerance:.4f} is allowed ({self.num_rows} such rows)"
        )


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """How far a cache's rows are from what its teacher says now."""

    documents: int
    rows: int
    largest_differences: dict[str, float]
    """By quantity (logprobs and masses in nats, total variations from the teacher's softmax), the
    difference that is furthest beyond its tolerance, or closest to it."""
    tolerances: dict[str, float]
    """By quantity, what is allowed there."""
    variations: dict[float, tuple[float, float]]
    """By temperature, the mean total variation of the stored targets from the teacher's, and the
    most that the cache's own fidelity allows."""
    tail_problem: str | None
    """What is wrong with the tail's file."""
    faults: tuple[LiveFault, ...]

    @property
    def problems(self) -> list[str]:
        """All that is wrong, in sentences."""
        found = [self.tail_problem] if self.tail_problem else []
        found += [
            f"At T = {temperature:g} the targets are {mean:.4f} from the teacher's in the mean "
            f"(total variation); by the cache's own fidelity {most:.4f} is allowed."
            for temperature, (mean, most) in self.variations.items()
            if not mean <= most
        ]
        return found + [str(fault) for fault in self.faults]

    def lines(self) -> list[str]:
        """The report as text."""
        return [
            f"The teacher ran again on {self.documents} documents ({self.rows:,} rows).",
            *(
                f"  {name}: largest difference {difference:.2g}, {self.tolerances[name]:.2g} "
                "allowed there"
                for name, difference in self.largest_differences.items()
                if self.tolerances[name] < float("inf")
            ),
            *(
                f"  {VARIATION} from the teacher at T = {temperature:g}: mean {mean:.2g}, "
                f"{most:.2g} allowed by the cache's own fidelity"
                for temperature, (mean, most) in self.variations.items()
            ),
            *self.problems,
        ]


class LiveTally:
    """Largest differences and faults over the documents seen so far."""

    def __init__(self):
        """Nothing was seen yet."""
        self._worst: dict[str, tuple[float, float, float]] = {}  # excess, difference, tolerance
        self._rows: dict[str, list[RowComparison]] = defaultdict(list)
        self._faults: list[LiveFault] = []
        self._num_rows = 0

    def add(self, split: str, index: int, task_id: int, compared: dict[str, RowComparison]) -> None:
        """Count a document's rows; decoded targets are at fault only where no field of them is."""
        self._num_rows += len(compared["entropy"].stored)
        faults: list[LiveFault] = []
        for name, rows in compared.items():
            self._rows[name].append(rows)
            row = int(rows.excess.argmax())
            excess, difference = float(rows.excess[row]), float(rows.difference[row])
            here = excess, difference, float(rows.tolerance[row])
            if name not in self._worst or here[0] > self._worst[name][0]:
                self._worst[name] = here
            if not (faults and name.startswith(VARIATION)):
                faults += self._fault(rows, split, index, task_id, name)
        self._faults += faults

    def _fault(
        self, rows: RowComparison, split: str, index: int, task_id: int, name: str
    ) -> Iterator[LiveFault]:
        row = int(rows.excess.argmax())
        if rows.excess[row] <= 0:
            return
        yield LiveFault(
            split=split,
            index=index,
            task_id=task_id,
            row=row,
            quantity=name,
            stored=float(rows.stored[row]),
            live=float(rows.live[row]),
            tolerance=float(rows.tolerance[row]),
            num_rows=int((rows.excess > 0).sum()),
        )

    def report(
        self, *, documents: int, fidelity: tuple[Fidelity, ...], tail_problem: str | None
    ) -> LiveReport:
        """What was seen."""
        return LiveReport(
            documents=documents,
            rows=self._num_rows,
            largest_differences={name: worst[1] for name, worst in self._worst.items()},
            tolerances={name: worst[2] for name, worst in self._worst.items()},
            variations=self._means(fidelity),
            tail_problem=tail_problem,
            faults=tuple(self._faults),
        )

    def _means(self, fidelity: tuple[Fidelity, ...]) -> dict[float, tuple[float, float]]:
        """By temperature, the mean total variation and the most that it may be.

        That is three times the cache's own mean, as documents differ, but no more than 99 % of
        its rows have; to which comes by how far the teacher's own logprobs are from the stored.
        """
        golds = join(self._rows["gold_logprob"])
        drift = float(golds.difference.nanmean())
        found = {}
        for own in fidelity:
            if own.temperature in TEMPERATURES:
                rows = join(self._rows[f"{VARIATION} at T = {own.temperature:g}"])
                most = min(3 * own.total_variation, own.total_variation_p99)
                found[own.temperature] = float(rows.stored.mean()), most + 0.01 + drift
        return found
