"""Copies: the same bits in memory of their own, beside each other as long as there is room."""

import pytest
import torch

from handwave.copies import Copies
from handwave.restoring import same_bits

TENSORS = [
    torch.tensor([1.0, -0.0, float("nan"), float("inf")]),
    torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    torch.arange(12.0).reshape(3, 4).T,
    torch.arange(5.0).to(torch.bfloat16),
    torch.tensor(3.0),
    torch.empty(0, 4),
    torch.ones(1, 8).expand(8, 8),
]


def test_a_copy_has_the_same_bits_and_nothing_of_the_memory():
    copied = Copies(TENSORS)
    for tensor in TENSORS:
        copy = copied(tensor)
        assert copy.shape == tensor.shape
        assert same_bits(copy.contiguous(), tensor.contiguous())
        assert not tensor.numel() or copy.data_ptr() != tensor.data_ptr()
        assert copy.data_ptr() % 64 == 0 or not tensor.numel()


def test_copies_stand_in_one_block_until_it_is_full():
    tensor = torch.ones(1000)
    copied = Copies([tensor, tensor])
    one, two, three = copied(tensor), copied(tensor), copied(tensor)
    blocks = [copy.untyped_storage().data_ptr() for copy in (one, two, three)]
    assert blocks[0] == blocks[1] != blocks[2]
    one.zero_()
    assert torch.equal(two, tensor)
    assert torch.equal(three, tensor)


@pytest.mark.parametrize("make", [lambda x: x.to_sparse(), lambda x: x.to("meta")])
def test_what_does_not_fit_is_cloned(make):
    tensor = make(torch.eye(3))
    copy = Copies([tensor])(tensor)
    assert copy is not tensor
    assert (copy.shape, copy.layout, copy.device) == (tensor.shape, tensor.layout, tensor.device)
