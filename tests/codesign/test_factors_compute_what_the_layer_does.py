"""A layer as two of low rank: at full rank the same answers, with the layer's own padding; groups are left alone."""

import pytest
import torch
from torch import nn

from codesign.low_rank import factorise, factorised
from simulator.errors import InputError


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_convolution_at_full_rank_is_itself_at_its_edges_too(padding_mode: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 12, 3, stride=2, padding=(2, 1), padding_mode=padding_mode)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(factorised(conv, 12)(x), conv(x), rtol=1e-4, atol=1e-5)


def test_convolutions_in_groups_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 3, groups=2), nn.Conv2d(64, 64, 3))
    small = factorise(model, {"0": 2, "1": 2})
    assert isinstance(small[0], nn.Conv2d) and isinstance(small[1], nn.Sequential)
    assert small(torch.randn(1, 8, 6, 6)).shape == (1, 64, 2, 2)
    with pytest.raises(InputError, match="a convolution in 2 groups"):
        factorised(model[0], 2)
