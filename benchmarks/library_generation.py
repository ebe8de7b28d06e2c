"""Completions with transformers' own `generate`, as a careful user of it would have them.

B rows, S positions (padded on the left).
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList, StopStringCriteria

from evaluation.config import GenerationSettings
from evaluation.generation.completion_rows import Completion, Request, Row
from evaluation.generation.tokens import DECODING, end_ids, left_pad, padding_id, position_limit


class Library:
    """`model.generate` with the stops, ends and sampling of our loop, and nothing else.

    Batches are left-padded, of requests of like length where these are sorted; rows of a batch
    end on their own and wait for the longest. The stop strings are prepared once: `generate`
    would go through the vocabulary in every call.
    """

    def __init__(
        self, model: Any, tokenizer: Any, settings: GenerationSettings, stop: Sequence[str]
    ):
        """Requests must all have these stops: `generate` knows one list for a batch."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.ends, self.pad_id = end_ids(model, tokenizer), padding_id(tokenizer)
        self.stopping = StoppingCriteriaList([StopStringCriteria(tokenizer, list(stop))])
        sampling: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:  # without top_k it would be 50
            sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0}
            sampling |= {"top_p": settings.top_p}
        # In place of the model's own, whose penalties and the like our loop has none of.
        model.generation_config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.pad_id,
            **sampling,
        )

    @torch.inference_mode()
    def token_ids(self, requests: Sequence[Request], batch_size: int) -> list[list[int]]:
        """New tokens of every request, with what pads its row after its end."""
        torch.manual_seed(self.settings.seed)
        written = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            ids, mask = left_pad([request.prompt_ids for request in batch], self.pad_id)
            output = self.model.generate(
                ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                stopping_criteria=self.stopping,
            )  # (B, S + new)
            written += output[:, ids.shape[1] :].tolist()
        return written

    def completion(self, place: int, request: Request, token_ids: list[int]) -> Completion:
        """Tokens as our loop would end them."""
        row = Row(place, request, self.settings, position_limit(self.model))
        for token_id in token_ids:
            if row.finish is None:
                row.add(token_id, self.ends, self.tokenizer)
        row.finish = row.finish or "stop"  # where `generate` ended it before we would
        return row.completion(self.tokenizer)

    @torch.inference_mode()
    def logit_gap(self, request: Request, token_ids: list[int], text: str) -> float | None:
        """The two best logits' distance where these tokens leave a text; None if they do not.

        The model reads the row alone, without padding: a gap near its rounding errors is a tie.
        """
        for index in range(len(token_ids)):
            words = self.tokenizer.decode(token_ids[: index + 1], **DECODING)
            if not text.startswith(words.rstrip("\N{REPLACEMENT CHARACTER}")):
                read = [*request.prompt_ids, *token_ids[:index]]
                ids = torch.tensor([read], device=self.model.device)
                best = self.model(ids).logits[0, -1].float().topk(2).values
                return float(best[0] - best[1])
        return None
