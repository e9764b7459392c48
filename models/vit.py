"""A vision transformer: patches as tokens, attention between them, a class token that answers.

After Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, in the sizes of DeiT-Tiny (Touvron et al., ICML
2021): 192 wide, 12 deep, 3 heads.  The forward spells attention out as two matrix products and a softmax; there is no
dropout and no distillation.  Read `nets.py` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import DataError, check_positive, check_widths


class Attention(nn.Module):
    """Every token looks at every token: [n, tokens, width] -> the same, in `heads` independent parts of the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, tokens, width]."""
        batch, tokens = x.shape[0], x.shape[1]
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]  # each [batch, heads, tokens, head width]
        scores = (query * self.head_width**-0.5) @ key.transpose(-2, -1)
        mixed = self.softmax(scores) @ value
        y: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return y


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and beside a shortcut."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, tokens, width]."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
        return y


class ViT(nn.Module):
    """images: float[n, in_channels, image, image] -> logits: float[n, num_classes]; ViT-Tiny/16 as it stands.

    `widths` are the tokens' width and the hidden width of the perceptrons; image and patch are sides in pixels.
    Raises DataError for a patch that does not divide the image, heads that do not divide the width, or a size below 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        widths: Sequence[int] = (192, 768),
        depth: int = 12,
        heads: int = 3,
        patch: int = 16,
        image: int = 224,
    ) -> None:
        super().__init__()
        where = "vit"
        sizes = {"in_channels": in_channels, "num_classes": num_classes, "depth": depth, "heads": heads,
                 "patch": patch, "image": image}  # fmt: skip
        for name, value in sizes.items():
            check_positive(value, name=name, where=where)
        width, hidden = check_widths(widths, 2, where=where)
        if image % patch:
            raise DataError(f"patch is {patch}", where=where, expected=f"a divisor of image = {image}")
        if width % heads:
            raise DataError(f"heads is {heads}", where=where, expected=f"a divisor of widths[0] = {width}")
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, hidden, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Normal with deviation 0.02, cut off at two units, and zero biases: what both papers' code does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, image, image]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(images.shape[0], -1, -1)
        x = self.norm(self.blocks(torch.cat([first, tokens], dim=1) + self.positions))
        logits: Tensor = self.fc(x[:, 0])
        return logits
