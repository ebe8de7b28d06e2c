"""What is stored of a row. Imports nothing heavy: the command line is built from it."""

from dataclasses import dataclass

from cache.errors import CacheError

MIN_TEMPERATURE, MAX_TEMPERATURE = 1.0, 4.0
"""A cache keeps its tail's mass for temperatures in this range and for no other."""
TAIL_KL = 0.004
"""Nats at T = 2 that the codes of a lowrank tail may cost where no bytes are given. Total variation
is then about 0.03 (docs/tails.md)."""
TAILS = ("lowrank", "mass", "hidden", "sampled", "renormalize")


@dataclass(frozen=True, kw_only=True)
class TargetFormat:
    """What is stored of a row's distribution, and in how many bits."""

    top_k: int = 8
    """Most entries stored a row."""
    top_p: float | None = None
    """Store only the fewest entries that hold this much probability at T = 1."""
    logprob_bits: int = 8
    """16: fp16; 8: log-spaced codes, within 0.9 % + 0.003 nats."""
    tail: str = "lowrank"
    """`mass`: what lies outside the top-k, at every temperature, spread evenly;
    `lowrank`: its shape too, from a few quantised coefficients; `hidden`: exact, from the final
    hidden state; `sampled`: weighted draws, exact in expectation; `renormalize`: forget it, as
    common implementations do."""
    tail_rank: int = 2048
    """Most coefficients of a lowrank tail; there are as many as the hidden state has dimensions,
    if it has fewer."""
    tail_bytes: float | None = None
    """Bytes a row that the coded coefficients of a lowrank tail may take; None: as many as it takes
    for `TAIL_KL`, which differs from teacher to teacher."""
    tail_samples: int = 32
    """Draws a row of a sampled tail."""

    def __post_init__(self):
        for name in ("top_k", "tail_rank", "tail_samples"):
            if getattr(self, name) < 1:
                raise CacheError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise CacheError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if self.logprob_bits not in (8, 16):
            raise CacheError(f"logprob_bits is {self.logprob_bits}; choose 8 or 16.")
        if self.tail not in TAILS:
            raise CacheError(f"tail is {self.tail!r}; choose from {', '.join(TAILS)}.")
        if self.tail_bytes is not None and not 1 <= self.tail_bytes < 1e6:
            raise CacheError(f"tail_bytes is {self.tail_bytes}; it must be 1 or more.")

    @property
    def tail_budget(self) -> str:
        """What a lowrank tail may take, for people."""
        return f"KL {TAIL_KL:g}" if self.tail_bytes is None else f"{self.tail_bytes:g} bytes"

    def tail_width(self, hidden_width: int) -> int:
        """Numbers of a row that its tail is made of, of a teacher of this width; 0 without any."""
        return {"hidden": hidden_width, "lowrank": min(self.tail_rank, hidden_width)}.get(
            self.tail, 0
        )

    def words(self) -> str:
        """In a line, for people."""
        words = [f"k = {self.top_k}"]
        if self.top_p is not None:
            words.append(f"top-p {self.top_p:g}")
        words.append(f"{self.logprob_bits}-bit logprobs")
        details = {
            "lowrank": f" (rank {self.tail_rank}, {self.tail_budget})",
            "sampled": f" ({self.tail_samples} draws)",
        }
        return ", ".join(words) + f", tail {self.tail}{details.get(self.tail, '')}"

    def options(self) -> str:
        """The options of `cache-teacher` that ask for it."""
        words = f"--top-k {self.top_k} --logprob-bits {self.logprob_bits} --tail {self.tail}"
        if self.top_p is not None:
            words += f" --top-p {self.top_p:g}"
        if self.tail == "lowrank":
            asked = "auto" if self.tail_bytes is None else f"{self.tail_bytes:g}"
            words += f" --tail-rank {self.tail_rank} --tail-bytes {asked}"
        return words + (f" --tail-samples {self.tail_samples}" if self.tail == "sampled" else "")


@dataclass(frozen=True, kw_only=True)
class LogitMap:
    """What a model does to its logits after the output head: c · tanh(s · z / c).

    Scaled logits: Cohere, Granite, MiniCPM. Soft-capped ones: Gemma 2 (Gemma Team 2024, section 2).
    """

    scale: float = 1.0
    """s."""
    softcap: float | None = None
    """c; None: no cap, s · z."""
