"""Attention of packed rows in one kernel call: what it is given is checked anywhere, the kernel itself where there is a GPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn import functional

from kosent import extras
from kosent.finetune import fast
from kosent.finetune.fast import Packing, packed_attention
from kosent.finetune.train import fused_layers

PACKINGS = [Packing(0, [5]), Packing(0, [7, 1, 12]), Packing(4, [3, 9, 1, 6])]


def tensors(packing: Packing, *, heads: int = 4, key_heads: int = 2, size: int = 16, **options: Any) -> list[torch.Tensor]:
    """Query, key and value of one row, random."""
    torch.manual_seed(3)
    tokens = packing.prefix + sum(packing.lengths)
    shapes = [(1, number, tokens, size) for number in (heads, key_heads, key_heads)]
    return [torch.randn(shape, **options).requires_grad_() for shape in shapes]


def slow_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, key_starts: torch.Tensor, longest: int,
    longest_key: int, *, scale: float | None, window_size: tuple[int, int], enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What FlashAttention promises for sequences of several lengths, one after another: the last query sees the last key."""
    assert window_size[1] == 0
    outputs = []
    for (a, b), (c, d) in zip(pairwise(starts), pairwise(key_starts), strict=True):
        assert b - a <= longest and d - c <= longest_key
        distance = (torch.arange(b - a)[:, None] + (d - c) - (b - a)) - torch.arange(d - c)[None, :]
        mask = (distance >= 0) & (distance <= window_size[0] if window_size[0] >= 0 else distance >= 0)
        parts = [tensor[start:end].transpose(0, 1)[None] for tensor, start, end in ((q, a, b), (k, c, d), (v, c, d))]
        out = functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


def gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape)
    return list(torch.autograd.grad((output.float() * weights).sum(), inputs))


@pytest.mark.parametrize("shares", [True, False], ids=["shared keys", "repeated keys"])
@pytest.mark.parametrize("window", [None, 3], ids=["whole", "window"])
@pytest.mark.parametrize("packing", PACKINGS, ids=["one", "three", "prefix"])
def test_one_call_is_given_what_the_calls_for_each_dialogue_compute(packing: Packing, window: int | None, shares: bool) -> None:
    inputs = tensors(packing)
    expected, _ = packed_attention(None, *inputs, None, packing=packing, sliding_window=window, scaling=0.3)
    found = fast._in_one_call(*inputs, packing, 0.3, window, slow_kernel, shares)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_fused_layers_are_asked_for_where_there_is_a_gpu_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused_layers()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setitem(extras.MODULES, "gpu", ("json",))
    assert fused_layers()
    monkeypatch.setitem(extras.MODULES, "gpu", ("no_such_module",))
    assert not fused_layers()


def test_this_processor_is_not_given_to_the_kernel() -> None:
    assert not fast._flash_can(tensors(PACKINGS[0], dtype=torch.bfloat16)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 3], ids=["whole", "window"])
@pytest.mark.parametrize("packing", PACKINGS, ids=["one", "three", "prefix"])
def test_the_gpu_computes_what_float32_does(packing: Packing, window: int | None) -> None:
    inputs = tensors(packing, size=64, device="cuda", dtype=torch.bfloat16)
    assert fast._flash_can(inputs[0])
    assert fast._variable_length_kernel() is not None
    found, _ = packed_attention(None, *inputs, None, packing=packing, sliding_window=window, scaling=0.3)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected, _ = packed_attention(None, *exact, None, packing=packing, sliding_window=window, scaling=0.3)
    assert (found.float() - expected).norm() < 1e-2 * expected.norm()
    for one, other in zip(gradients(found, inputs), gradients(expected, exact), strict=True):
        assert (one.float() - other).norm() < 2e-2 * other.norm()
