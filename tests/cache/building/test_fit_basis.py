"""What a basis is fitted on: few rows with logits, the others by their hidden states."""

import pytest
import torch

from cache.building.fit_basis import collect_rows, logits_every
from cache.targets.row_codec import OutputHead


@pytest.mark.parametrize(("num_rows", "every"), [(10, 2), (2458, 2), (4096, 4), (16384, 8)])
def test_a_thousand_rows_or_half_are_counted_with_their_logits(num_rows, every):
    assert logits_every(num_rows) == every


def test_rows_are_taken_until_there_are_enough():
    head = OutputHead(weight=torch.randn(20, 4), bias=torch.zeros(20))
    hidden = torch.randn(10, 4)
    pieces = [(hidden, hidden @ head.weight.T), (hidden, None), (hidden, None), (hidden, None)]
    seen = []
    fit = collect_rows(head, iter(pieces), 64, 25, lambda done, total: seen.append((done, total)))
    assert fit.num_rows == 30 and seen == [(10, 25), (20, 25), (30, 25)]
