"""The low-rank tail: a basis fitted on the first rows, and coefficients quantised against it.

Logits are W h + b with h the final hidden state, so a few coefficients of h give the shape of the
tail. What an error e of h costs is known: to second order KL_T = eᵀ F e / 2T², with F the Fisher
information of the tail at temperature T, seen through W. In the coordinates of F^(1/2) all errors
cost the same, so the coefficients are the principal components there, quantised with one step
for all of them (reverse water-filling: Cover and Thomas, section 10.3.3), and entropy coded.
Components that vary by less than the step cost next to nothing, and are kept.

N rows, V vocabulary, D width of the hidden state, R rank.
"""

import math
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from cache.errors import CacheError
from cache.targets.format import TAIL_KL
from cache.targets.rans import FrequencyTables
from cache.targets.steps import choose_steps, roundings_of

FIT_TEMPERATURE = 2.0
MAX_SCALE = 4.0
_LARGEST_LOGIT = 32768.0
_LEAST_FISHER = 1e-24


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

    @cached_property
    def _roundings(self) -> torch.Tensor:
        """(R,) fp32: what is added to a magnitude, in steps, before it is cut to an integer."""
        roundings = roundings_of(self.tables()).astype(np.float32)
        return torch.from_numpy(roundings).to(self.steps.device)

    def quantise(self, hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """(N, R) int8 codes of hidden states (N, D); `scale` (N,) widens a row's step."""
        coefficients = (hidden.float() - self.center) @ self.projection
        coefficients /= self.steps * scale.unsqueeze(-1)
        magnitudes = (coefficients.abs() + self._roundings).floor_()
        magnitudes = torch.minimum(magnitudes, self.limits.to(magnitudes.dtype))
        return magnitudes.copysign_(coefficients).to(torch.int8)

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
    """Collects what a basis is fitted on, batch by batch.

    Two kinds of rows, for two kinds of work. Means and covariances need many rows, and of each its
    hidden state alone. Fisher information, step and tables need few, but their logits. They
    are not the same rows: components fitted on a row follow it closer than they will follow
    others, and codes measured on it would take fewer bytes than those of the cache.

    Only the hidden states that come with logits are kept, to choose the step.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        """`weight` (V, D) and `bias` (V,) of the output head."""
        self._weight, self._bias = weight.float(), bias
        width = weight.shape[1]
        self._tail_probs = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        self._means = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
        self._moments = _Moments(width, weight.device)
        self._hidden: list[torch.Tensor] = []
        self._scales: list[torch.Tensor] = []
        self._solved: _Solution | None = None

    @property
    def width(self) -> int:
        """D."""
        return self._weight.shape[1]

    @property
    def num_rows(self) -> int:
        """Rows seen so far, of both kinds."""
        return self._moments.num_rows + sum(len(hidden) for hidden in self._hidden)

    def add_hidden(self, hidden: torch.Tensor) -> None:
        """Count rows (N, D) for the mean and the covariance."""
        self._moments.add(hidden)
        self._solved = None

    def add(self, hidden: torch.Tensor, logits: torch.Tensor, topk_ids: torch.Tensor) -> None:
        """Count rows for all else: hidden (N, D), logits (N, V), ids (N, K) stored exactly."""
        probs = (logits.float() / FIT_TEMPERATURE).softmax(-1)
        probs.scatter_(-1, topk_ids, 0.0)
        mass = probs.sum(-1).clamp_min(1e-9)
        self._tail_probs += probs.sum(0).double()
        mean = (probs @ self._weight) / mass.sqrt().unsqueeze(-1)
        self._means += (mean.T @ mean).double()
        self._hidden.append(hidden.float())
        self._scales.append(row_scale(mass))
        self._solved = None

    def finish(self, rank: int, bytes_per_row: float | None) -> TailBasis:
        """The basis of this rank whose codes take about so many bytes a row.

        Args:
            rank: components that are kept.
            bytes_per_row: None: as many as it takes for a KL of `TAIL_KL` from the codes, beside
                what components that are not kept cost.

        Raises:
            CacheError: the rank exceeds the hidden state's width, or rows hold NaN or inf.
        """
        width = self.width
        if rank > width:
            raise CacheError(
                f"tail_rank is {rank}, but the teacher's hidden states have only {width} "
                f"dimensions. Give --tail-rank {width} or less."
            )
        hidden, scales = torch.cat(self._hidden), torch.cat(self._scales)
        solved = self._solve(hidden)
        basis = self._weight @ solved.rebuild[:, :rank]  # (V, R)
        # Coefficients may have any scale: one at which fp16 holds their logits.
        excess = max(1.0, float(basis.abs().max()) / _LARGEST_LOGIT)
        scale = 2.0 ** math.ceil(math.log2(excess))
        projection = (solved.projection[:, :rank] * scale).contiguous()
        mean = self._weight @ solved.center
        if self._bias is not None:
            mean += self._bias.float()
        coefficients = (hidden - solved.center) @ projection / scales.unsqueeze(-1)
        # F is that of a mean row, whose tail weighs mean(1 / scale²); a row's own F is taken as
        # F in proportion to its tail's mass, which its step undoes.
        largest_error = 2 * FIT_TEMPERATURE**2 * TAIL_KL * float(scales.pow(-2).mean())
        steps, tables = choose_steps(coefficients.cpu().numpy(), bytes_per_row, largest_error)
        shared = TailBasis(
            basis=(basis / scale).half(),
            mean=mean,
            center=solved.center,
            projection=projection,
            steps=torch.from_numpy(steps.astype(np.float32)),
            limits=torch.from_numpy(np.asarray(tables.limits).astype(np.int16)),
            frequencies=torch.from_numpy(np.asarray(tables.frequencies).astype(np.int16)),
        )
        return shared.to(hidden.device)

    def _solve(self, hidden: torch.Tensor) -> "_Solution":
        """Kept until rows are added: at D = 3072 it takes far longer than the rest of `finish`."""
        if self._solved is None:
            weighted = self._tail_probs.float().unsqueeze(-1) * self._weight
            fisher = ((self._weight.T @ weighted).double() - self._means).cpu() / len(hidden)
            moments = self._moments
            if moments.num_rows < len(hidden):  # too few for components that are not their own
                moments = moments.copy()
                moments.add(hidden)
            center, covariance = moments.mean_and_covariance()
            if not (torch.isfinite(covariance).all() and torch.isfinite(fisher).all()):
                raise CacheError(
                    "The tail's basis cannot be fitted: hidden states or logits of the first "
                    "documents hold NaN or inf.\nThe teacher is broken or overflows in this "
                    "precision: try --dtype bf16 or fp32."
                )
            root, inverse_root = _square_roots(fisher)
            _, directions = torch.linalg.eigh(root @ covariance @ root)
            directions = directions.flip(-1)
            self._solved = _Solution(
                center=center.float().to(hidden.device),
                projection=(root @ directions).float().to(hidden.device),
                rebuild=(inverse_root @ directions).float().to(hidden.device),
            )
        return self._solved


@dataclass(frozen=True, kw_only=True, eq=False)
class _Solution:
    """All D components, the one that varies most first."""

    center: torch.Tensor
    """(D,) fp32."""
    projection: torch.Tensor
    """(D, D) fp32: coefficients are (h - center) @ projection."""
    rebuild: torch.Tensor
    """(D, D) fp32: h - center is rebuild @ coefficients."""


class _Moments:
    """Sums of rows and of their products, fp64: mean and covariance without the rows."""

    def __init__(self, width: int, device: torch.device):
        self.num_rows = 0
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows: torch.Tensor) -> None:
        rows = rows.double()
        self.num_rows += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    def copy(self) -> "_Moments":
        copy = _Moments(len(self._sum), self._sum.device)
        copy.num_rows = self.num_rows
        copy._sum += self._sum
        copy._products += self._products
        return copy

    def mean_and_covariance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(D,) and (D, D), fp64 on the CPU."""
        mean = (self._sum / self.num_rows).cpu()
        return mean, self._products.cpu() / self.num_rows - torch.outer(mean, mean)


def _square_roots(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric square root of a positive matrix and its inverse, fp64.

    Without any tail (all mass in the top-k) the matrix is 0, and any basis does.
    """
    values, vectors = torch.linalg.eigh(matrix)
    values = (values.clamp_min(0) + 1e-6 * values.clamp_min(0).mean()).clamp_min(_LEAST_FISHER)
    root = values.sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
