"""A cache whose teacher knows its documents well, or whose rows stand beside their tokens."""

from dataclasses import replace

import numpy as np
import torch

from cache.reading.reader import CacheReader
from tests.support.synthetic import to_soft_targets


class PeakedReader(CacheReader):
    """A real cache's documents with made-up rows: most are sure of the token that they predict."""

    def __init__(self, path, *, shift: int = 0, gold_of_others: bool = False):
        """Open a cache.

        Args:
            shift: rows are sure of the token that many places behind the one they predict.
            gold_of_others: what is noted of gold tokens belongs to the next row.
        """
        super().__init__(path)
        self.shift, self.gold_of_others = shift, gold_of_others

    def read(self, split, indices):
        """Documents with made-up targets."""
        documents = super().read(split, indices)
        logits, _ = self._rows(documents.token_ids)
        return replace(documents, targets=to_soft_targets(logits, 16))

    def read_rows(self, split, indices, name):
        """What would be noted of the made-up rows."""
        token_ids = super().read(split, indices).token_ids
        logits, gold = self._rows(token_ids)
        logprobs = logits.log_softmax(-1)
        of_gold = logprobs.gather(-1, gold[:, None])
        found = {
            "entropy": -(logprobs.exp() * logprobs).sum(-1),
            "gold_logprob": of_gold.squeeze(-1),
            "gold_rank": (logprobs > of_gold).sum(-1),
        }[name].numpy()
        return np.roll(found, 1) if self.gold_of_others else found

    def _rows(self, token_ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of a document's rows, and the tokens they should predict."""
        generator = torch.Generator().manual_seed(len(token_ids))
        gold = torch.from_numpy(token_ids[1:].astype(np.int64))
        logits = torch.randn(len(gold), self.vocab_size, generator=generator)
        sure = torch.rand(len(gold), generator=generator) < 0.8
        peaks = 8.0 * sure.float()
        logits.scatter_add_(-1, gold.roll(-self.shift)[:, None], peaks[:, None])
        return logits, gold
