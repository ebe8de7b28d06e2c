"""The tails: what a cache knows of the tokens outside the top-k, behind one small interface.

N rows, V vocabulary, K cached entries a row (padded with a row's first id at logprob -inf), J
sparse entries a row, R tail rank, S draws, M nodes of the tail mass. β = 1/T.

A tail takes the top-k of its rows and answers with a `TargetDistribution` at any temperature;
the loss and the fidelity report know nothing else of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakSet

import torch

from cache.errors import CacheError
from cache.targets.tail_mass import interpolate_log_mass

Change = Callable[[torch.Tensor], torch.Tensor]


class TailMap:
    """The linear map from coefficients to tail logits that all rows of a cache share.

    It is copied to a device, and cast, once, when it is first needed so, and not with every batch.
    Between the processes of a DataLoader it goes by its name: it is in each of them already, and
    would weigh more than all the rows of a batch.
    """

    _open: "WeakSet[TailMap]" = WeakSet()

    def __init__(
        self,
        basis: torch.Tensor,
        mean: torch.Tensor,
        name: str = "",
        softcap: float | None = None,
    ):
        """`basis` (V, R) and `mean` (V,), fp32 on one device.

        Args:
            name: a hash of their content.
            softcap: c, where the teacher's logits are c · tanh((mean + basis · a) / c).
        """
        self.softcap = softcap
        mean = mean.clamp_min(NEVER)  # a head may bar tokens by a bias of -inf
        self._copies = {(basis.device, basis.dtype): (basis, mean)}
        self._name = name
        self._open.add(self)

    def __reduce__(self):
        if self._name:
            return _named_map, (self._name,)
        return TailMap, (*next(iter(self._copies.values())), "", self.softcap)

    def on(
        self, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Basis, in that dtype, and mean on a device."""
        if (device, dtype) not in self._copies:
            basis, mean = next(iter(self._copies.values()))
            self._copies[device, dtype] = (basis.to(device, dtype), mean.to(device))
        return self._copies[device, dtype]


def _named_map(name: str) -> TailMap:
    found = next((one for one in TailMap._open if one._name == name), None)
    if found is None:
        raise CacheError(
            "These soft targets come from another process, and their cache is not open in this "
            "one. Open it first (CacheReader or CachedDataset, and read from it once)."
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRest:
    """What the tokens without a name hold: a mass, shared out by a softmax of linear logits.

    Nothing of size (N, V) is there until it is asked for.
    """

    log_mass: torch.Tensor
    """(N,) fp32, nats; -inf where the named tokens hold everything."""
    coefficients: torch.Tensor
    """(N, R) fp32."""
    shared: TailMap
    beta: float
    ids: torch.Tensor
    """(N, K) int64 of the named tokens, which hold nothing of this mass."""

    def logits(self, products: torch.Tensor | None = None) -> torch.Tensor:
        """(N, V) of β (mean + basis · a), soft-capped where the map is; NEVER at the named tokens.

        Args:
            products: (N, V) of basis · `scaled_coefficients`, which become the logits; None
                computes them.
        """
        basis, mean = self.shared.on(self.coefficients.device)
        if products is None:
            products = self.scaled_coefficients @ basis.T
        cap = self.shared.softcap
        if cap is None:
            products.add_(mean * self.beta)
        else:
            products.add_(mean).div_(cap).tanh_().mul_(cap * self.beta)
        return products.scatter_(-1, self.ids, NEVER)

    @property
    def scaled_coefficients(self) -> torch.Tensor:
        """(N, R) of β a; of a where the logits are soft-capped before β."""
        return self.coefficients * (self.beta if self.shared.softcap is None else 1.0)

    def probs(self) -> torch.Tensor:
        """(N, V) of what each token holds."""
        return self.logits().softmax(-1).mul_(self.log_mass.exp().unsqueeze(-1))

    def rows(self, rows: slice) -> "LinearRest":
        """The same of some rows, as views."""
        return replace(
            self,
            log_mass=self.log_mass[rows],
            coefficients=self.coefficients[rows],
            ids=self.ids[rows],
        )


NEVER = -1e30
"""A logit whose exponential is 0, and which times 0 is still 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetDistribution:
    """p_T of N rows: some tokens by name, and a uniform part or a linear rest for the others."""

    ids: torch.Tensor
    """(N, J) int64; a repeated id adds up."""
    probs: torch.Tensor
    """(N, J) fp32: what each named entry holds above the uniform part."""
    uniform: torch.Tensor | None
    """(N,) fp32: what each of the first `num_uniform` ids holds alike; None is 0."""
    num_uniform: int = 0
    """Ids that are tokens: the head's rows beyond them hold nothing but what is named."""
    rest: LinearRest | None
    """What each token holds besides; None is 0."""
    named_neg_entropy: torch.Tensor
    """(N,) fp32: Σ_j p_j log p_j without what the rest adds, in nats."""

    @property
    def neg_entropy(self) -> torch.Tensor:
        """(N,) fp32: Σ_j p_j log p_j over the whole vocabulary, in nats."""
        if self.rest is None:
            return self.named_neg_entropy
        log_probs = self.rest.logits().log_softmax(-1)
        mass = self.rest.log_mass.exp()
        within = (log_probs.exp() * log_probs).sum(-1)
        return self.named_neg_entropy + mass * within + torch.special.xlogy(mass, mass)

    def rows(self, rows: slice) -> "TargetDistribution":
        """The same of some rows, as views."""
        return replace(
            self,
            ids=self.ids[rows],
            probs=self.probs[rows],
            uniform=None if self.uniform is None else self.uniform[rows],
            rest=None if self.rest is None else self.rest.rows(rows),
            named_neg_entropy=self.named_neg_entropy[rows],
        )

    def to_dense(self, vocab_size: int) -> torch.Tensor:
        """(N, V) probabilities."""
        rows = len(self.ids)
        if self.rest is not None:
            total = self.rest.probs()
        else:
            total = torch.zeros(rows, vocab_size, device=self.probs.device)
        if self.uniform is not None:
            total[:, : self.num_uniform] += self.uniform.unsqueeze(-1)
        return total.scatter_add_(-1, self.ids, self.probs)


class Tail(Protocol):
    """What lies outside the top-k of N rows."""

    def map(self, change: Change) -> "Tail":
        """The same tail with `change` applied to every tensor that has a row axis."""
        ...

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        """p_T of the rows whose top-k is `ids` (N, K) with `logprobs` (N, K) at T = 1."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class NoTail:
    """The top-k renormalised, as common implementations do; what lay outside is forgotten."""

    def map(self, change: Change) -> "NoTail":
        """Nothing to change."""
        return self

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        """p_i ∝ exp(β · l_i) over the top-k alone."""
        logprobs = (logprobs * beta).log_softmax(-1)
        probs = logprobs.exp()
        return TargetDistribution(
            ids=ids, probs=probs, uniform=None, rest=None, named_neg_entropy=plogp(probs, logprobs)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EvenTail:
    """The mass outside the top-k, spread evenly over those tokens."""

    num_tokens: int
    """Ids from 0 on that share it: the tokenizer's, which may be fewer than the head's rows."""
    log_mass: torch.Tensor
    """(N, M) fp32, nats at the nodes of `cache.targets.tail_mass`."""

    def map(self, change: Change) -> "EvenTail":
        """Change the log masses."""
        return replace(self, log_mass=change(self.log_mass))

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        """p_i ∝ exp(β · l_i) for the top-k; the tail's share is that of the full softmax."""
        log_probs, log_tail = split_mass(logprobs, self.log_mass, beta)
        sharing = torch.isfinite(logprobs) & (ids < self.num_tokens)
        num_rest = self.num_tokens - sharing.sum(-1)
        probs, tail = log_probs.exp(), log_tail.exp()
        uniform = tail / num_rest.clamp_min(1)
        neg_entropy = plogp(probs, log_probs) + torch.special.xlogy(tail, uniform)
        # Named entries hold what they have above the uniform part; padding holds nothing.
        above = torch.where(sharing, probs - uniform.unsqueeze(-1), probs)
        return TargetDistribution(
            ids=ids,
            probs=above,
            uniform=uniform,
            num_uniform=self.num_tokens,
            rest=None,
            named_neg_entropy=neg_entropy,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearTail:
    """The shape of the tail from a linear map of a few coefficients a row, at its mass.

    Tail logits are mean + basis · a: with the output head as basis and the hidden state as a,
    they are the teacher's own.
    """

    log_mass: torch.Tensor
    """(N, M) fp32."""
    coefficients: torch.Tensor
    """(N, R) fp32."""
    shared: TailMap

    def map(self, change: Change) -> "LinearTail":
        """Change log masses and coefficients."""
        return replace(self, log_mass=change(self.log_mass), coefficients=change(self.coefficients))

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        """The top-k as in `EvenTail`; the tail is softmax(β (mean + basis · a)) outside of it."""
        log_probs, log_tail = split_mass(logprobs, self.log_mass, beta)
        probs = log_probs.exp()
        rest = LinearRest(
            log_mass=log_tail,
            coefficients=self.coefficients,
            shared=self.shared,
            beta=beta,
            ids=ids,
        )
        return TargetDistribution(
            ids=ids,
            probs=probs,
            uniform=None,
            rest=rest,
            named_neg_entropy=plogp(probs, log_probs),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledTail:
    """Importance-weighted draws from the tail: the full target in expectation, at any T.

    Draw s fell on token j with probability exp(β₀ l_j) / tail mass at β₀; at temperature T it
    weighs p_T(j) over that, divided by the number of draws.

    Source: Anshumann et al. 2025, "Sparse Logit Sampling", section 3.
    """

    log_mass: torch.Tensor
    """(N, M) fp32."""
    ids: torch.Tensor
    """(N, S) int64, with repetitions."""
    logprobs: torch.Tensor
    """(N, S) fp32, nats at T = 1."""
    proposal_beta: float
    """β₀."""

    def map(self, change: Change) -> "SampledTail":
        """Change log masses and draws."""
        return replace(
            self,
            log_mass=change(self.log_mass),
            ids=change(self.ids),
            logprobs=change(self.logprobs),
        )

    def at(self, ids: torch.Tensor, logprobs: torch.Tensor, beta: float) -> TargetDistribution:
        """The top-k as in `EvenTail`; the draws stand for the tail."""
        log_probs, log_tail = split_mass(logprobs, self.log_mass, beta)
        probs = log_probs.exp()
        tail = interpolate_log_mass(self.log_mass, 1 / beta)
        log_z = torch.logaddexp((logprobs * beta).logsumexp(-1), tail)  # (N,)
        log_g0 = interpolate_log_mass(self.log_mass, 1 / self.proposal_beta)
        log_weight = (beta - self.proposal_beta) * self.logprobs + (log_g0 - log_z).unsqueeze(-1)
        weights = log_weight.exp() / self.ids.shape[-1]  # (N, S)
        weights = torch.where(torch.isneginf(log_tail).unsqueeze(-1), 0.0, weights)
        # Σ_tail p (β l - log Z), by the same draws: unbiased as well.
        log_tail_probs = beta * self.logprobs - log_z.unsqueeze(-1)
        neg_entropy = plogp(probs, log_probs) + plogp(weights, log_tail_probs)
        return TargetDistribution(
            ids=torch.cat([ids, self.ids], -1),
            probs=torch.cat([probs, weights], -1),
            uniform=None,
            rest=None,
            named_neg_entropy=neg_entropy,
        )


def split_mass(
    logprobs: torch.Tensor, log_mass: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities (N, K) of the top-k at T = 1/β, and the log mass (N,) outside of it."""
    tail = interpolate_log_mass(log_mass, 1 / beta)
    joint = torch.cat([logprobs * beta, tail.unsqueeze(-1)], -1).log_softmax(-1)
    return joint[:, :-1], joint[:, -1]


def plogp(probs: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """(N,) Σ p log p, where p = 0 adds nothing."""
    return (probs * logprobs.masked_fill(probs == 0, 0.0)).sum(-1)
