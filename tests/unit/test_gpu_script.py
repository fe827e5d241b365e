"""The GPU benchmark's arithmetic: what an operation moves, which events are kernels, and of which kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("gpu")


def test_operations_move_what_they_read_and_write(script: ModuleType) -> None:
    x, y = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    weight, slope = torch.rand(4, 3, 3, 3), torch.rand(1, 4, 8, 8)
    one = 4 * 3 * 64
    assert script.measure(lambda: x + y) == (0, 3 * one)
    assert script.measure(lambda: x.relu_()) == (0, 2 * one)
    assert script.measure(lambda: torch.empty(100).view(10, 10)) == (0, 0)
    forward = script.measure(lambda: torch.nn.functional.conv2d(x, weight, padding=1))
    assert forward == (2 * 4 * 3 * 9 * 64, one + 4 * 4 * 3 * 9 + 4 * 4 * 64)
    sizes = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    back = script.measure(
        lambda: torch.ops.aten.convolution_backward(slope, x, weight, None, *sizes, [True, False, False])
    )
    assert back == forward, "to the image alone: the slope and the weights are read, the image's slope is written"


def test_only_kernels_count_on_a_gpu(script: ModuleType) -> None:
    kinds = torch.autograd.DeviceType
    kernel = SimpleNamespace(device_type=kinds.CUDA, self_device_time_total=3.0, self_cpu_time_total=0.0)
    waiting = SimpleNamespace(device_type=kinds.CPU, self_device_time_total=0.0, self_cpu_time_total=900.0)
    assert [script.time_of(event, torch.device("cuda")) for event in (kernel, waiting)] == [3.0, 0.0]
    assert script.time_of(waiting, torch.device("cpu")) == 900.0


def test_kernels_have_kinds(script: ModuleType) -> None:
    found = {
        "void cudnn::ops::convertTensor_kernel<float>": "layout copies and casts",
        "void nchwToNhwcKernel<__nv_bfloat16>": "layout copies and casts",
        "sm90_xmma_fprop_implicit_gemm_bf16_nhwc": "matrix products and convolutions",
        "void at::native::vectorized_elementwise_kernel<4>": "elementwise",
        "something else": "other",
    }
    assert {kernel: script.kind_of(kernel) for kernel in found} == found
