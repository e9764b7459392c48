"""How the weights of every network in this package start.

He's normal initialisation for convolutions and linear layers, zero biases, unit batch norms.  It draws
from torch's global generator; `nets.build(seed=...)` is what makes it repeatable.  Read `nets.py` next.
"""

from __future__ import annotations

from torch import nn


def init_he_(net: nn.Module) -> None:
    """Fill the parameters of `net` in place.

    Each weight is normal with variance 2 / fan_in, which keeps the variance of activations through
    ReLUs (He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10).
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
