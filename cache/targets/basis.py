"""The low-rank tail: a basis fitted on the first rows, and coefficients quantised against it.

Logits are W h + b with h the final hidden state, so a few coefficients of h give the shape of the
tail. What an error e of h costs is known: to second order KL_T = eᵀ F e / 2T², with F the Fisher
information of the tail at temperature T, seen through W. In the coordinates of F^(1/2) all errors
cost the same, so the coefficients are the principal components there, quantised with one step
for all of them (reverse water-filling: Cover and Thomas, section 10.3.3), and entropy coded.

N rows, V vocabulary, D width of the hidden state, R rank.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from cache.errors import CacheError
from cache.targets.rans import PRECISION_BITS, FrequencyTables, fit_tables

FIT_TEMPERATURE = 2.0
MAX_SCALE = 4.0
_LARGEST_CODE = 127
_RANGE_MARGIN = 1.3
"""Room for values that the rows of the fit did not have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TailBasis:
    """What all rows of a cache share to code and to rebuild their tails."""

    basis: torch.Tensor
    """(V, R) fp16: logits of each coefficient."""
    mean: torch.Tensor
    """(V,) fp32: logits where all coefficients are 0."""
    center: torch.Tensor
    """(D,) fp32: mean hidden state."""
    projection: torch.Tensor
    """(D, R) fp32: coefficients are (h - center) @ projection."""
    steps: torch.Tensor
    """(R,) fp32: quantiser step of each coefficient, in a row that is all tail."""
    limits: torch.Tensor
    """(R,) int16: largest code of each coefficient."""
    frequencies: torch.Tensor
    """(R, L) int16: static frequencies of the codes, for the entropy coder."""

    @property
    def rank(self) -> int:
        """R."""
        return self.basis.shape[-1]

    def tables(self) -> FrequencyTables:
        """The entropy coder's view.

        Raises:
            CacheError: the tables are not those of a coder.
        """
        return FrequencyTables(
            limits=self.limits.cpu().numpy(),
            frequencies=self.frequencies.cpu().numpy().astype(np.uint16),
        )

    def quantise(self, hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """(N, R) int8 codes of hidden states (N, D); `scale` (N,) widens a row's step."""
        coefficients = (hidden.float() - self.center) @ self.projection
        codes = (coefficients / (self.steps * scale.unsqueeze(-1))).round()
        limits = self.limits.to(codes.dtype)
        return torch.minimum(torch.maximum(codes, -limits), limits).to(torch.int8)

    def dequantise(self, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """(N, R) fp32 coefficients of the codes."""
        return (self.steps * scale.unsqueeze(-1)).mul_(codes)

    def to(self, device: torch.device | str) -> "TailBasis":
        """The same basis on another device."""
        return TailBasis(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def row_scale(tail_mass: torch.Tensor) -> torch.Tensor:
    """(N,) factor of a row's quantiser step, from its tail's mass at the fit's temperature.

    A row whose tail weighs little may be coded coarsely for the same loss of KL.
    """
    return tail_mass.clamp_min(1e-6).rsqrt().clamp(1.0, MAX_SCALE)


class BasisFit:
    """Collects what a basis is fitted on, batch by batch; memory does not grow with the rows.

    Only the hidden states of the fit themselves are kept, to choose the step.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        """`weight` (V, D) and `bias` (V,) of the output head."""
        self._weight, self._bias = weight.float(), bias
        width = weight.shape[1]
        self._tail_probs = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        self._means = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
        self._hidden: list[torch.Tensor] = []
        self._scales: list[torch.Tensor] = []
        self._solved: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @property
    def width(self) -> int:
        """D."""
        return self._weight.shape[1]

    @property
    def num_rows(self) -> int:
        """Rows seen so far."""
        return sum(len(hidden) for hidden in self._hidden)

    def add(self, hidden: torch.Tensor, logits: torch.Tensor, topk_ids: torch.Tensor) -> None:
        """Count rows: hidden (N, D), logits (N, V), the ids (N, K) that are stored exactly."""
        probs = (logits.float() / FIT_TEMPERATURE).softmax(-1)
        probs.scatter_(-1, topk_ids, 0.0)
        mass = probs.sum(-1).clamp_min(1e-9)
        self._tail_probs += probs.sum(0).double()
        mean = (probs @ self._weight) / mass.sqrt().unsqueeze(-1)
        self._means += (mean.T @ mean).double()
        self._hidden.append(hidden.float())
        self._scales.append(row_scale(mass))
        self._solved = None

    def finish(self, rank: int, bytes_per_row: float) -> TailBasis:
        """The basis of this rank whose codes take about so many bytes a row.

        Raises:
            CacheError: the rank exceeds the hidden state's width.
        """
        hidden, scales = torch.cat(self._hidden), torch.cat(self._scales)
        width = hidden.shape[1]
        if rank > width:
            raise CacheError(
                f"tail_rank is {rank}, but the teacher's hidden states have only {width} "
                f"dimensions. Give --tail-rank {width} or less."
            )
        center = hidden.mean(0)
        root, inverse_root, directions = self._solve(hidden, center)
        directions = directions[:, :rank]
        projection = (root @ directions).float().to(hidden.device)
        rebuild = (inverse_root @ directions).float().to(hidden.device)
        mean = self._weight @ center + (self._bias.float() if self._bias is not None else 0.0)
        coefficients = ((hidden - center) @ projection / scales.unsqueeze(-1)).cpu().numpy()
        steps = choose_steps(coefficients, bytes_per_row)
        tables = fit_tables(_codes(coefficients, steps))
        return TailBasis(
            basis=(self._weight @ rebuild).half(),
            mean=mean,
            center=center,
            projection=projection,
            steps=torch.from_numpy(steps.astype(np.float32)).to(hidden.device),
            limits=torch.from_numpy(np.asarray(tables.limits).astype(np.int16)),
            frequencies=torch.from_numpy(np.asarray(tables.frequencies).astype(np.int16)),
        )

    def _solve(
        self, hidden: torch.Tensor, center: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """F^(1/2), its inverse, and the principal directions there, (D, D) fp64 each.

        Kept until rows are added: at D = 3072 they take far longer than the rest of `finish`.
        """
        if self._solved is None:
            weighted = self._tail_probs.float().unsqueeze(-1) * self._weight
            fisher = ((self._weight.T @ weighted).double() - self._means).cpu() / len(hidden)
            centered = (hidden - center).double().cpu()
            covariance = centered.T @ centered / len(hidden)
            root, inverse_root = _square_roots(fisher)
            _, directions = torch.linalg.eigh(root @ covariance @ root)
            self._solved = root, inverse_root, directions.flip(-1)
        return self._solved


def _square_roots(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric square root of a positive matrix and its inverse, fp64."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0) + 1e-6 * values.clamp_min(0).mean()
    root = values.sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def choose_steps(coefficients: np.ndarray, bytes_per_row: float) -> np.ndarray:
    """(R,) steps at which the codes of (N, R) coefficients have that much entropy, by bisection.

    One step for all columns, but for the few whose largest value would leave the range of the
    codes: theirs is as fine as the range allows.
    """
    finest = np.abs(coefficients).max(0) * (_RANGE_MARGIN / _LARGEST_CODE)  # (R,)
    finest = np.maximum(finest, 1e-12).astype(np.float32)
    low, high = 1e-4 * float(finest.max()), 1e3 * float(finest.max())
    for _ in range(24):
        middle = (low * high) ** 0.5
        if code_bytes(_codes(coefficients, np.maximum(finest, middle))) > bytes_per_row:
            low = middle
        else:
            high = middle
    return np.maximum(finest, high)


def code_bytes(codes: np.ndarray) -> float:
    """Bytes a row of (N, R) codes in [-127, 127] under their own static frequencies."""
    tables = fit_tables(codes)
    bits = 0.0
    for column, limit, frequencies in zip(codes.T, tables.limits, tables.frequencies, strict=True):
        counts = np.bincount(column.astype(np.int64) + int(limit), minlength=2 * int(limit) + 1)
        costs = PRECISION_BITS - np.log2(frequencies[: len(counts)].astype(np.float64))
        bits += float((counts * costs).sum())
    return bits / 8 / max(len(codes), 1)


def _codes(coefficients: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(coefficients / steps), -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
