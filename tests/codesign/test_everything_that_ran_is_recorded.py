"""Whole networks are traced and costed without holes: layers, attention, and the operators that are not GEMMs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.recording import record
from codesign.trace import trace_model
from models.nets import build
from simulator import Conv2d, Gemm, InputError, load_machine, simulate

SMALL = {
    "resnet18": {"widths": [8, 8, 16, 16], "stem": "small"}, "resnet50": {"widths": [4, 4, 8, 8]},
    "vgg11": {"widths": [8, 8, 16, 16, 16]}, "mobilenet_v2": {"width": 0.25, "stem": "small"},
    "vit_tiny": {"widths": [24, 48], "depth": 2, "image": 32, "patch": 8},
}


class Lambda(nn.Module):
    """A module of one function, and a layer so that something is traced."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def operators_of(function, x: Tensor, *layers: nn.Module):
    return record(Lambda(function, *layers), x).operators


@pytest.mark.parametrize("machine", ["systolic_ws", "nm_array", "sparten", "eyeriss_v2", "sigma"])
@pytest.mark.parametrize("name", SMALL)
def test_no_holes(name: str, machine: str) -> None:
    trace = trace_model(build(name, seed=0, num_classes=10, **SMALL[name]), torch.rand(1, 3, 32, 32))
    report = simulate(trace, load_machine(machine, {"vector_lanes": 16}))
    assert report.coverage.complete, report.coverage.line()
    assert report.coverage.line().startswith(f"priced: {report.coverage.operators[0]} of ")
    assert "100 % of operators, 100 % of MACs, 100 % of bytes" in report.coverage.line()
    assert report.cycles >= sum(layer.cycles for layer in report.layers)
    assert sum(report.cycles_by_cause.values()) == report.cycles


def test_without_a_vector_unit_every_operator_is_named() -> None:
    trace = trace_model(build("mobilenet_v2", seed=0, stem="small"), torch.rand(1, 3, 32, 32))
    report = simulate(trace, load_machine("systolic_ws"))
    assert dict(report.coverage.at_zero) == {"hardtanh": 35, "add": 10, "mean": 1}
    assert dict(report.coverage.folded) == {"batch_norm": 52}


def test_macs_of_the_published_networks() -> None:
    """What torchvision and timm publish for one image: 4.09, 0.30 and 1.26 GMACs, attention's products included."""
    for name, giga in (("resnet50", 4.09), ("mobilenet_v2", 0.301), ("vit_tiny", 1.258)):
        recording = record(build(name), torch.rand(1, 3, 224, 224))
        assert sum(run.operation.macs for run in recording.runs) / 1e9 == pytest.approx(giga, rel=0.005), name


def test_attention_is_two_gemms_a_head_however_it_is_written() -> None:
    def by_hand(x: Tensor, qkv: nn.Linear) -> Tensor:
        q, k, v = qkv(x).reshape(2, 7, 3, 4, 5).permute(2, 0, 3, 1, 4)
        return (q * 5**-0.5 @ k.mT).softmax(-1) @ v

    def fused(x: Tensor, qkv: nn.Linear) -> Tensor:
        q, k, v = qkv(x).reshape(2, 7, 3, 4, 5).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)

    def einsum(x: Tensor, qkv: nn.Linear) -> Tensor:
        q, k, v = qkv(x).reshape(2, 7, 3, 4, 5).permute(2, 0, 3, 1, 4)
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * 5**-0.5).softmax(-1)
        return torch.einsum("bhij,bhjd->bhid", weights, v)

    for function in (by_hand, fused, einsum):
        found = record(Lambda(function, nn.Linear(20, 60)), torch.rand(2, 7, 20))
        assert [run.operation for run in found.runs] == [
            Gemm(14, 20, 60), Gemm(7, 5, 7, groups=8), Gemm(7, 7, 5, groups=8)], function
        assert [run.weight_source for run in found.runs] == ["parameter", "activation", "activation"]
        softmax = next(one for one in found.operators if one.operator == "softmax")
        assert (softmax.reads, softmax.writes, softmax.operations) == (392, 392, 6 * 392)
        names = [run.name for run in found.runs]
        assert (names[0], names[1]) in found.edges
        assert (names[0], names[2]) in found.edges  # the values
        assert (names[1], names[2]) in found.edges


def test_torchs_own_attention_module_and_its_pruned_projection() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.out_proj.weight[:4] = 0
    net = Lambda(lambda x, one: one(x, x, x)[0], attention)
    trace = trace_model(net, torch.rand(1, 3, 8))
    named = {layer.name: layer for layer in trace.layers}
    assert named["layers.0.in_proj"].operation == Gemm(3, 8, 24)
    out = named["layers.0.out_proj"]
    assert out.operation == Gemm(3, 8, 8)
    assert out.weight_mask is not None
    assert not out.weight_mask[:, :4].any()
    assert out.weight_mask[:, 4:].all()
    assert sum(layer.weight_source == "activation" for layer in trace.layers) == 2


def test_functional_layers_are_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.matrix = nn.Parameter(torch.rand(4, 1, 3, 3)), nn.Parameter(torch.rand(16, 5))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel, padding=1, stride=2, groups=2).flatten(1) @ self.matrix

    found = record(Net(), torch.rand(3, 2, 4, 4))
    assert [(run.name, run.operation) for run in found.runs] == [
        ("kernel", Conv2d(2, 4, 4, 4, 3, 3, batch=3, stride_h=2, stride_w=2, padding_h=1, padding_w=1, groups=2)),
        ("matrix", Gemm(3, 16, 5))]
    assert list(found.edges) == [("kernel", "matrix")]


def test_unknown_operators_are_listed_with_their_macs_and_never_dropped() -> None:
    def forward(x: Tensor, conv: nn.Conv2d, up: nn.ConvTranspose2d) -> Tensor:
        return torch.special.bessel_j0(up(conv(x)).cumsum(-1))

    trace = trace_model(Lambda(forward, nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2)),
                        torch.rand(1, 3, 5, 5))
    report = simulate(trace, load_machine("systolic_ws", {"vector_lanes": 8}))
    assert dict(report.coverage.at_zero) == {"conv_transpose2d": 1, "cumsum": 1, "special_bessel_j0": 1}
    assert report.coverage.macs == (300, 300 + 100 * 24)  # 4x25 inputs meet 6x2x2 weights each


def test_what_is_fused_where() -> None:
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    x = torch.rand(1, 3, 6, 6)
    plain = operators_of(lambda x, c, n: n(c(x)).relu() + x, x, conv, norm)
    assert [(one.operator, one.fusion, one.producer, one.others) for one in plain] == [
        ("batch_norm", "weights", "layers.0", 0), ("relu", "producer", "layers.0", 0),
        ("add", "producer", "layers.0", 108)]
    after_pool = operators_of(lambda x, c: F.max_pool2d(c(x), 2).relu(), x, conv)
    assert [(one.operator, one.fusion) for one in after_pool] == [("max_pool2d", "none"), ("relu", "none")]
    assert after_pool[0].operations == 4 * 27
    norm_first = operators_of(lambda x, c, n: c(n(x)), x, conv, norm)
    assert [(one.fusion, one.after) for one in norm_first] == [("none", "")]

    def read_twice(x: Tensor, conv: nn.Conv2d) -> Tensor:
        y = conv(x)
        return y.relu() + y.sigmoid()

    assert [one.fusion for one in operators_of(read_twice, x, conv)] == ["none", "none", "none"]
    # In place, and through views.
    placed = operators_of(lambda x, c: F.relu_(c(x)).flatten(1).mul_(2), x, conv)
    assert [(one.operator, one.fusion) for one in placed] == [("relu", "producer"), ("mul", "producer")]


def test_views_and_constants_are_free_and_copies_are_not() -> None:
    layer = nn.Linear(4, 6)

    def forward(x: Tensor, layer: nn.Linear) -> Tensor:
        y = layer(x).reshape(2, 3, 2, 3).transpose(1, 2)
        return y.contiguous() * torch.arange(3.0).exp()

    found = operators_of(forward, torch.rand(2, 3, 4), layer)
    assert [(one.operator, one.reads, one.writes) for one in found] == [("copy", 36, 36), ("mul", 39, 36)]


def test_a_shared_layer_and_a_layer_that_runs_twice_keep_their_names() -> None:
    found = record(Lambda(lambda x, one: one(one(x).relu()), nn.Linear(4, 4)), torch.rand(2, 4))
    assert [run.name for run in found.runs] == ["layers.0", "layers.0@2"]
    assert list(found.edges) == [("layers.0", "layers.0@2")]
    assert found.operators[0].name == "relu"


def test_edges_are_those_of_the_data_even_where_fx_cannot_trace() -> None:
    def forward(x: Tensor, a: nn.Linear, b: nn.Linear, c: nn.Linear) -> Tensor:
        y = a(x)
        return c(y + b(x)) if float(y.sum()) < 1e9 else y  # data-dependent: no symbolic trace

    found = record(Lambda(forward, *(nn.Linear(4, 4) for _ in range(3))), torch.rand(2, 4))
    assert list(found.edges) == [("layers.0", "layers.2"), ("layers.1", "layers.2")]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no Conv2d or Linear ran"):
        trace_model(nn.ReLU(), torch.rand(2, 3))


def test_recording_leaves_the_model_as_it_was() -> None:
    net = build("mobilenet_v2", seed=0, **SMALL["mobilenet_v2"]).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    record(net, torch.rand(1, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
