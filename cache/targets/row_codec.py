"""Rows in the form a shard stores them: from the teacher's logits, and back to soft targets.

N rows, V vocabulary, D width, K entries, M nodes of the tail mass, R tail rank, S draws.

Encoded rows are a dict of torch tensors by dataset name, dense in the row axis; how a shard packs
them (ragged entries, entropy-coded coefficients) is `cache.storage.packing`'s matter.
"""

import math
from dataclasses import dataclass, replace

import torch

from cache.errors import CacheError
from cache.targets.basis import FIT_TEMPERATURE, TailBasis, row_scale
from cache.targets.format import TargetFormat
from cache.targets.logprob_codes import decode_logprobs, encode_logprobs
from cache.targets.soft_targets import SoftTargets
from cache.targets.tail_mass import NODES, decode_log_mass, encode_log_mass, tail_powers
from cache.targets.tails import (
    EvenTail,
    LinearTail,
    NoTail,
    SampledTail,
    Tail,
    TailMap,
    split_mass,
)

PROPOSAL_BETA = 0.5
"""Draws of a sampled tail follow it at T = 2."""

EncodedRows = dict[str, torch.Tensor]

HALF_MAX = 65504.0
"""Largest number of fp16."""
_ROOM = 16
"""How much larger hidden states may be than those that were looked at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputHead:
    """The teacher's output head, which makes a hidden tail exact."""

    weight: torch.Tensor
    """(V, D) fp32."""
    bias: torch.Tensor
    """(V,) fp32."""
    softcap: float | None = None
    """Of the logits, which are then softcap · tanh((W h + b) / softcap)."""
    unit: float = 1.0
    """What hidden states are divided by to be stored, a power of 2; `weight` is of those."""

    def reaching(self, largest: float) -> "OutputHead":
        """The same head for hidden states that go up to `largest`, of which fp16 would be short."""
        if not _ROOM * largest > HALF_MAX or math.isinf(largest):
            return self
        unit = 2.0 ** math.ceil(math.log2(_ROOM * largest / HALF_MAX))
        return replace(self, weight=self.weight * unit, unit=unit)


class RowCodec:
    """Encodes rows as a target format says, and decodes them."""

    def __init__(
        self,
        targets: TargetFormat,
        vocab_size: int,
        *,
        basis: TailBasis | None = None,
        head: OutputHead | None = None,
        softcap: float | None = None,
        sha256: str = "",
        num_tokens: int | None = None,
    ):
        """A lowrank tail needs its `basis`, a hidden tail its `head`; fp32, on one device.

        Args:
            softcap: of the teacher's logits, where the tail is `lowrank`.
            sha256: of the file that either comes from; empty where there is none.
            num_tokens: ids that the tokenizer has, which share an even tail; None is all V.
        """
        assert (basis is not None) == (targets.tail == "lowrank")
        assert (head is not None) == (targets.tail == "hidden")
        self.targets, self.vocab_size = targets, vocab_size
        self.num_entries = min(targets.top_k, vocab_size)
        known = vocab_size if num_tokens is None else num_tokens
        # With every token in the top-k, what is left lies beyond them.
        self.num_tokens = known if self.num_entries < known < vocab_size else vocab_size
        self._basis, self._head = basis, head
        self._softcap = head.softcap if head is not None else softcap
        self.tables = None
        """Tables of the entropy coder, for a lowrank tail."""
        self.tail_width = 0
        """Coefficients or hidden dimensions a row."""
        if basis is not None:
            self._shared = TailMap(basis.basis.float(), basis.mean, sha256, self._softcap)
            self.tables = basis.tables()
            self.tail_width = basis.rank
        elif head is not None:
            self._shared = TailMap(head.weight, head.bias, sha256, self._softcap)
            self.tail_width = head.weight.shape[1]

    def to(self, device: torch.device | str) -> "RowCodec":
        """The same codec on another device."""
        head = self._head and replace(
            self._head, weight=self._head.weight.to(device), bias=self._head.bias.to(device)
        )
        basis = self._basis and self._basis.to(device)
        return RowCodec(
            self.targets,
            self.vocab_size,
            basis=basis,
            head=head,
            softcap=self._softcap,
            num_tokens=self.num_tokens,
        )

    def encode(
        self,
        logits: torch.Tensor,
        hidden: torch.Tensor,
        gold_ids: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> EncodedRows:
        """Rows as they are stored.

        Args:
            logits: (N, V) of any float dtype; arithmetic is fp32.
            hidden: (N, D) final hidden states.
            gold_ids: (N,) int64, the next token of the document.
            generator: draws of a sampled tail, on the device of `logits`.

        Raises:
            CacheError: a row holds NaN or +inf, or nothing finite; or a hidden state is too large
                for fp16.
        """  # fmt: skip
        logits = logits.float()
        topk_logits, topk_ids = logits.topk(self.num_entries, dim=-1)
        maximum = topk_logits[:, :1]
        shifted = logits - maximum
        unused = None
        if self.targets.top_p is not None:
            unused = self._unused_entries(shifted, topk_logits - maximum)
            topk_ids = torch.where(unused, topk_ids[:, :1], topk_ids)
        tail_sums, tail_exp = tail_powers(shifted, topk_ids)  # (N, M), (N, V)
        topk_shifted = topk_logits - maximum
        if unused is not None:
            topk_shifted = topk_shifted.masked_fill(unused, -torch.inf)
        topk_exp = topk_shifted.exp()
        total = tail_sums[:, -1] + topk_exp.sum(-1)  # (N,) Σ exp(s)
        if not bool(torch.isfinite(total).all()):
            row = int((~torch.isfinite(total)).nonzero()[0])
            raise CacheError(f"the teacher's logits hold NaN or inf (row {row} of the slice)")
        log_total = total.log()
        gold_logits = logits.gather(-1, gold_ids.unsqueeze(-1))
        # -Σ p log p = log Σ exp(s) - Σ p·s; a masked token (s = -inf) adds nothing.
        shifted.clamp_min_(-1e4)
        sum_exp_s = torch.linalg.vecdot(tail_exp, shifted)
        sum_exp_s += (topk_exp * topk_shifted.clamp_min(-1e4)).sum(-1)
        nodes = torch.tensor(NODES, device=logits.device)
        rows = {
            "topk_ids": topk_ids,
            "topk_logprobs": self._encode_logprobs(topk_shifted - log_total.unsqueeze(-1)),
            "entropy": (log_total - sum_exp_s / total).clamp_min(0).half(),
            "gold_logprob": _half((gold_logits - maximum).squeeze(-1) - log_total),
            "gold_rank": _gold_rank(logits, gold_logits, topk_logits),
        }
        if self.targets.tail != "renormalize":
            rows["tail_log_mass"] = encode_log_mass(
                tail_sums.log() - nodes * log_total.unsqueeze(-1)
            )
        return rows | self._encode_tail(rows, hidden, tail_exp, shifted, log_total, generator)

    def decode(self, rows: EncodedRows) -> SoftTargets:
        """Soft targets of encoded rows, fp32."""
        logprobs = self.decode_logprobs(rows["topk_logprobs"])
        return SoftTargets(
            vocab_size=self.vocab_size,
            topk_ids=rows["topk_ids"].long(),
            topk_logprobs=logprobs,
            tail=self._decode_tail(rows, logprobs),
        )

    def _encode_logprobs(self, logprobs: torch.Tensor) -> torch.Tensor:
        return logprobs.half() if self.targets.logprob_bits == 16 else encode_logprobs(logprobs)

    def decode_logprobs(self, stored: torch.Tensor) -> torch.Tensor:
        """Nats, fp32, of stored logprobs."""
        return stored.float() if self.targets.logprob_bits == 16 else decode_logprobs(stored)

    def _unused_entries(self, shifted: torch.Tensor, topk_shifted: torch.Tensor) -> torch.Tensor:
        """(N, K) True for entries behind those that already hold `top_p` at T = 1."""
        probs = (topk_shifted - shifted.logsumexp(-1, keepdim=True)).exp()
        before = probs.cumsum(-1) - probs
        assert self.targets.top_p is not None
        return before >= self.targets.top_p

    def _encode_tail(
        self, rows: EncodedRows, hidden: torch.Tensor, tail_exp: torch.Tensor,
        shifted: torch.Tensor, log_total: torch.Tensor, generator: torch.Generator | None,
    ) -> EncodedRows:  # fmt: skip
        if self.targets.tail == "lowrank":
            assert self._basis is not None
            return {"tail_codes": self._basis.quantise(hidden, self.scale(rows))}
        if self.targets.tail == "hidden":
            assert self._head is not None
            stored = (hidden / self._head.unit).half()
            if not bool(torch.isfinite(stored).all()):
                raise CacheError(
                    f"a hidden state reaches {float(hidden.abs().max()):.3g}, far beyond those of "
                    "the first documents, which fp16 cannot hold: give --tail lowrank"
                )
            return {"tail_hidden": stored}
        if self.targets.tail == "sampled":
            weights = tail_exp.pow_(PROPOSAL_BETA)
            weights[:, 0] += (weights.sum(-1) == 0).float()  # an empty tail: any token, weight 0
            ids = weights.multinomial(
                self.targets.tail_samples, replacement=True, generator=generator
            )
            logprobs = shifted.gather(-1, ids) - log_total.unsqueeze(-1)
            return {"tail_ids": ids, "tail_logprobs": _half(logprobs)}
        return {}

    def _decode_tail(self, rows: EncodedRows, logprobs: torch.Tensor) -> Tail:
        if self.targets.tail == "renormalize":
            return NoTail()
        log_mass = decode_log_mass(rows["tail_log_mass"])
        if self.targets.tail == "lowrank":
            assert self._basis is not None
            return LinearTail(
                log_mass=log_mass,
                coefficients=self._basis.dequantise(rows["tail_codes"], self.scale(rows)),
                shared=self._shared,
            )
        if self.targets.tail == "hidden":
            return LinearTail(
                log_mass=log_mass,
                coefficients=rows["tail_hidden"].float(),
                shared=self._shared,
            )
        if self.targets.tail == "sampled":
            return SampledTail(
                log_mass=log_mass,
                ids=rows["tail_ids"].long(),
                logprobs=rows["tail_logprobs"].float(),
                proposal_beta=PROPOSAL_BETA,
            )
        return EvenTail(num_tokens=self.num_tokens, log_mass=log_mass)

    def scale(self, rows: EncodedRows) -> torch.Tensor:
        """(N,) step factors, from what is stored, so that a reader finds the same."""
        logprobs = self.decode_logprobs(rows["topk_logprobs"])
        log_mass = decode_log_mass(rows["tail_log_mass"])
        return row_scale(split_mass(logprobs, log_mass, 1 / FIT_TEMPERATURE)[1].exp())


def _half(logprobs: torch.Tensor) -> torch.Tensor:
    """fp16, where what it cannot hold is the lowest number and -inf stays what it is."""
    return torch.where(torch.isneginf(logprobs), logprobs, logprobs.clamp_min(-HALF_MAX)).half()


def _gold_rank(
    logits: torch.Tensor, gold_logits: torch.Tensor, topk_logits: torch.Tensor
) -> torch.Tensor:
    """(N,) tokens above the gold one; only rows whose top-k ends above it are counted in full."""
    rank = (topk_logits > gold_logits).sum(-1)
    beyond = (rank == topk_logits.shape[-1]).nonzero().squeeze(-1)
    if len(beyond):
        rank[beyond] = torch.count_nonzero(logits[beyond] > gold_logits[beyond], dim=-1)
    return rank
