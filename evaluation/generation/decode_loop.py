"""The decoding loop: rows of different lengths, that start, grow and end on their own.

B rows, S positions (padded on the left), V vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from evaluation.config import GenerationSettings
from evaluation.generation.completion_rows import Row
from evaluation.generation.kv_cache import (
    choose_rows,
    holds_every_position,
    join_left_padded,
    join_rows,
)
from evaluation.generation.sampling import choose
from evaluation.generation.tokens import end_ids, left_pad, padding_id, position_limit

# Rows are moved, and new ones read in, when this share of a batch has ended: to read a prompt
# alone takes about as long as a step of the whole batch.
REFILL_SHARE = 0.25


class DecodeLoop:
    """The rows that are being generated, and the model's state of them."""

    def __init__(self, model: Any, tokenizer: Any, settings: GenerationSettings):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.device = model.get_input_embeddings().weight.device
        self.ends = end_ids(model, tokenizer)
        self.options = _forward_options(model)
        accepted = inspect.signature(model.forward).parameters
        self._has_cache = "past_key_values" in accepted
        self.last_position = (position_limit(model) or 1 << 30) - 1
        self.rows: list[Row] = []
        self.is_open: bool | None = None
        """Whether rows can leave and join at any time; None before the first prompt."""
        self._cache: Any = None
        self._mask = torch.empty(0)  # (B, S) int64
        self._next_ids = torch.empty(0)  # (B, 1)

    @torch.inference_mode()
    def start(self, rows: list[Row]) -> None:
        """Read the prompts of new rows and choose their first tokens.

        Joins the rows that run, if any do, which needs an open cache.
        """
        if not self._has_cache:
            self.is_open = True
            self._choose(rows, self._read_whole(rows))
            self.rows = self.rows + rows
            return
        prompts = [row.request.prompt_ids for row in rows]
        if self.is_open is None:
            self.is_open = holds_every_position(self._read(prompts[:1])[2])
        if self.is_open:
            different = list(dict.fromkeys(prompts))  # samples of one problem are read once
            logits, mask, cache = self._read(different)
            copies = torch.tensor([different.index(prompt) for prompt in prompts])
            copies = copies.to(self.device)
            choose_rows(cache, copies)
            logits, mask = logits[copies], mask[copies]
        else:
            logits, mask, cache = self._read(prompts)
        next_ids = self._choose(rows, logits)
        if self.rows:
            join_rows(self._cache, cache)
            self._mask = join_left_padded(self._mask, mask, -1)
            self._next_ids = torch.cat([self._next_ids, next_ids])
        else:
            self._cache, self._mask, self._next_ids = cache, mask, next_ids
        self.rows = self.rows + rows

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row."""
        if not self._has_cache:
            self._choose(self.rows, self._read_whole(self.rows))
            return
        one = self._mask.new_ones(len(self.rows), 1)
        self._mask = torch.cat([self._mask, one], dim=-1)
        logits, self._cache = self._forward(self._next_ids, self._mask, self._cache)
        self._next_ids = self._choose(self.rows, logits)

    def drop_ended(self, batch_size: int) -> None:
        """Drop rows that have ended, when they are all or enough to be worth moving the others."""
        kept = [index for index, row in enumerate(self.rows) if row.finish is None]
        num_ended = len(self.rows) - len(kept)
        if not kept:
            self.rows, self._cache = [], None
        elif not self._has_cache:
            self.rows = [self.rows[index] for index in kept]
        elif self.is_open and num_ended >= REFILL_SHARE * batch_size:
            places = torch.tensor(kept, device=self.device)
            mask = self._mask[places]
            first = int(mask.any(0).nonzero()[0])  # columns that only ended rows had
            choose_rows(self._cache, places, first)
            self._mask, self._next_ids = mask[:, first:], self._next_ids[places]
            self.rows = [self.rows[index] for index in kept]

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Logits (B, V) of the last column, attention mask (B, S), and a new cache."""
        ids, mask = left_pad(prompts, padding_id(self.tokenizer))
        mask = mask.to(self.device)
        empty = DynamicCache() if self.is_open else None  # None: the model's own kind
        logits, cache = self._forward(ids.to(self.device), mask, empty)
        return logits, mask, cache

    def _read_whole(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits (B, V) after the last token of every row.

        For models whose state is no key-value cache (Mamba, RWKV): the whole texts are read again
        for each token. Padded on the right, which a causal model never looks at.
        """
        texts = [torch.tensor([*row.request.prompt_ids, *row.token_ids]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(
            texts, batch_first=True, padding_value=padding_id(self.tokenizer)
        )
        logits = self.model(input_ids=ids.to(self.device), use_cache=False).logits  # (B, S, V)
        last = torch.tensor([len(text) - 1 for text in texts], device=logits.device)
        return logits[torch.arange(len(rows), device=logits.device), last].float()

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """Logits (B, V) of the last column, and the cache."""
        if "position_ids" in self.options:
            positions = (mask.cumsum(-1) - 1).clamp(0, self.last_position)
            self.options["position_ids"] = positions[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **self.options,
        )
        return output.logits[:, -1].float(), output.past_key_values

    def _choose(self, rows: list[Row], logits: torch.Tensor) -> torch.Tensor:
        """The next token of every row, (B, 1); rows that go on get it."""
        uniforms = torch.stack([row.uniform for row in rows]).to(self.device)
        chosen = choose(logits, self.settings, uniforms)
        for row, token_id in zip(rows, chosen.tolist(), strict=True):
            if row.finish is None:
                row.add(token_id, self.ends, self.tokenizer)
        return chosen.unsqueeze(-1)


def _forward_options(model: Any) -> dict[str, Any]:
    """Arguments that only some models take: positions, and the logits of the last one alone."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "position_ids" in accepted:
        options["position_ids"] = None
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = 1
    return options
