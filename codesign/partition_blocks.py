"""Real removal: a partitioned chain of linear layers as P small dense chains, with the outputs of the masked network.

The inputs of the chain are dealt out once, every part runs its own small layers, and the outputs are put back in order
once; between layers features lie part after part.  Left out: running the parts on different machines.  Read
partition.py for where the parts come from, partition_chain.py for what a chain is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulator import files
from simulator.errors import InputError

from .layers import prunable
from .partition_chain import Chain
from .trace import to_numpy

Ints = NDArray[np.int64]
SCHEMA = 1
MADE_BY = "codesign.partition_blocks.save_chains"


class PartitionedLinear(nn.Module):
    """[..., in] -> [..., out]: P dense layers, each on a share of the features.

    blocks: one nn.Linear for each part.  reads: int64[in], which input each place of the dealt-out order holds, or None
    where inputs come part after part already.  writes: int64[out], the place of each output, or None to leave outputs
    part after part.
    """

    reads: Tensor | None
    writes: Tensor | None

    def __init__(self, blocks: Sequence[nn.Linear], reads: Tensor | None, writes: Tensor | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.sizes = [block.in_features for block in blocks]
        self.register_buffer("reads", reads)
        self.register_buffer("writes", writes)

    def forward(self, inputs: Tensor) -> Tensor:
        """All outputs, from the inputs of every part."""
        dealt = inputs if self.reads is None else inputs.index_select(-1, self.reads)
        shares = torch.split_with_sizes(dealt, self.sizes, dim=-1)
        outputs = torch.cat([block(share) for block, share in zip(self.blocks, shares, strict=True)], dim=-1)
        return outputs if self.writes is None else outputs.index_select(-1, self.writes)


def compacted(model: nn.Module, chain: Chain, places: Sequence[Ints]) -> nn.Module:
    """A copy of `model` with the chain's layers as PartitionedLinear; batch norms between them are put in order.

    places: the part of each neuron, inputs first.  Raises InputError where a weight between two parts is not zero.
    """
    layers = prunable(model)
    smaller = copy.deepcopy(model)
    parts = int(max(place.max() for place in places)) + 1
    for index, name in enumerate(chain.layers):
        before, after, layer = places[index], places[index + 1], layers[name]
        weight = layer.weight.detach()
        crossing = torch.from_numpy(after[:, None] != before[None]).to(weight.device)
        if bool(weight[crossing].any()):
            raise InputError(f"layer {name!r} has weights between its parts", where="partition, compacted",
                             expected="weights with the partition's masks applied")
        first, last = index == 0, index + 1 == len(chain.layers)
        order = torch.from_numpy(np.argsort(before, kind="stable")) if first else None
        back = torch.from_numpy(np.argsort(np.argsort(after, kind="stable"), kind="stable")) if last else None
        blocks = [_block(layer, np.flatnonzero(before == part), np.flatnonzero(after == part))
                  for part in range(parts)]
        _put(smaller, name, PartitionedLinear(blocks, order, back).to(weight.device))
        for norm in chain.norms[index]:
            _reorder_(smaller.get_submodule(norm), torch.from_numpy(np.argsort(after, kind="stable")))
    return smaller


def save_chains(path: str | Path, model: nn.Module, chain: Chain, places: Sequence[Ints]) -> None:
    """Write P small chains into one checked safetensors file: "PART/LAYER.weight", "PART/LAYER.bias", and of every part
    "PART/inputs" and "PART/outputs", the features of the whole chain that it reads and makes."""
    layers = prunable(model)
    parts = int(max(place.max() for place in places)) + 1
    tensors: dict[str, NDArray[np.generic]] = {}
    for part in range(parts):
        mine = [np.flatnonzero(place == part) for place in places]
        tensors |= {f"{part}/inputs": mine[0], f"{part}/outputs": mine[-1]}
        for name, before, after in zip(chain.layers, mine[:-1], mine[1:], strict=True):
            block = _block(layers[name], before, after)
            tensors[f"{part}/{name}.weight"] = to_numpy(block.weight)
            if block.bias is not None:
                tensors[f"{part}/{name}.bias"] = to_numpy(block.bias)
    files.save(Path(path), "partition", {"schema": SCHEMA, "parts": parts, "chain": list(chain.layers)}, tensors)


def load_chains(path: str | Path) -> list[Mapping[str, NDArray[np.generic]]]:
    """For each part its tensors: "inputs", "outputs", and weights and biases by layer.  Raises InputError for a file
    that is missing, damaged or another's."""
    header, tensors = files.load(Path(path), "partition", MADE_BY)
    return [{name.split("/", 1)[1]: tensor for name, tensor in tensors.items() if name.split("/", 1)[0] == str(part)}
            for part in range(int(header["parts"]))]


def _block(layer: nn.Module, inputs: Ints, outputs: Ints) -> nn.Linear:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    block = nn.Linear(len(inputs), len(outputs), bias=bias is not None, dtype=weight.dtype, device=weight.device)
    rows, columns = torch.from_numpy(outputs).to(weight.device), torch.from_numpy(inputs).to(weight.device)
    with torch.no_grad():
        block.weight.copy_(weight[rows][:, columns])
        if isinstance(bias, Tensor):
            block.bias.copy_(bias[rows])
    return block


def _reorder_(norm: nn.Module, order: Tensor) -> None:
    """Entries of a batch norm, one for each feature, in the new order of the features."""
    for tensor in (*norm.parameters(recurse=False), *norm.buffers(recurse=False)):
        if tensor.dim():  # num_batches_tracked is one number
            tensor.data.copy_(tensor.data[order.to(tensor.device)])


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
