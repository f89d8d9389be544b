"""What makes a training step cheap without changing what it learns.

Three parts of a Hugging Face model are exchanged while it trains:

    attention   each dialogue of a packed row attends to the shared prefix and to itself instead of to the whole row through a
                mask: in a kernel call of its own, or on a GPU in one call for all (FlashAttention for variable lengths)
    LoRA        base matrix and adapter in one autograd node: no intermediate the size of the output but the output
    loss        logits at supervised positions only, a few rows at a time; the gradient is taken while they are at hand, so the
                matrix of logits (tokens x vocabulary) never exists; on a CPU it leaves out words of negligible probability.
                After the fused cross-entropy of Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2024),
                and Hsu et al., "Liger Kernel" (2024)

A layer that any of them does not cover (dropout, DoRA, 4-bit weights, a trained or soft-capped head) keeps its own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from kosent.errors import ModelError
from kosent.finetune.rows import Row

ATTENTION = "kosent_packed"
LOGITS_AT_ONCE = 2**25
"""Logits held at a time: 128 MiB in float32, 128 rows of a vocabulary of 262,144."""
COLUMNS = 2048
"""Words of the vocabulary in one product on a CPU, whose result then fits the cache: a sixth faster than all at once."""
NEGLIGIBLE = 1e-6
"""Words less probable than this for every token at hand are left out of the gradient on a CPU. On Gemma 3 270M, which has 262,144
words, three quarters are, and the gradient is off by 0.15 % in norm: a third of what bfloat16 rounds away. The loss is exact."""


@dataclass(frozen=True)
class Packing:
    """How a row divides into a prefix and dialogues, in tokens."""

    prefix: int
    lengths: list[int]

    @cached_property
    def bounds(self) -> VariableLengths:
        """For one call over the prefix and all dialogues; the first layer of a row makes it, the others use it again."""
        queries = [*([self.prefix] if self.prefix else []), *self.lengths]
        keys = [*([self.prefix] if self.prefix else []), *(self.prefix + length for length in self.lengths)]
        places: list[int] = []
        end = 0
        for length in queries:
            places += [*(range(self.prefix) if end else ()), *range(end, end + length)]
            end += length
        return VariableLengths([0, *accumulate(queries)], [0, *accumulate(keys)], places, max(queries), max(keys))


class VariableLengths:
    """Where each sequence begins among the queries and among the keys, on the device; `places` of the keys in the row."""

    def __init__(self, queries: list[int], keys: list[int], places: list[int], longest_query: int, longest_key: int) -> None:
        self._lists = (queries, keys, places)
        self.longest = (longest_query, longest_key)
        self._tensors: dict[torch.device, list[torch.Tensor]] = {}

    def on(self, device: torch.device) -> list[torch.Tensor]:
        """Starts of the queries and of the keys, (sequences + 1), and the places, (keys), each int32."""
        if device not in self._tensors:
            self._tensors[device] = [torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in self._lists]
        return self._tensors[device]


@cache
def _variable_length_kernel() -> tuple[Callable[..., Any], bool] | None:
    """PyTorch's FlashAttention for variable lengths, and whether it lets queries share keys; None before PyTorch 2.11."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return (varlen_attn, "enable_gqa" in known) if {"window_size", "scale"} <= set(known) else None


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each dialogue of a row, in the signature of transformers' attention functions.

    `query` is (1, heads, tokens, head size), `key` and `value` (1, key heads, tokens, head size). The queries of the prefix are
    computed with every dialogue, which lets the kernel work without a mask, and kept once.
    """
    if packing is None:
        packing = Packing(0, [query.shape[2]])
    kernel = _variable_length_kernel() if _flash_can(query) and not dropout else None
    if kernel:
        return _in_one_call(query, key, value, packing, scaling, sliding_window, *kernel), None
    sizes = [packing.prefix, *packing.lengths]
    queries, keys, values = (torch.split(tensor, sizes, dim=2) for tensor in (query, key, value))
    outputs = []
    for number in range(1, len(sizes)):
        q, k, v = (
            torch.cat((parts[0], parts[number]), dim=2) if packing.prefix else parts[number] for parts in (queries, keys, values)
        )
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            place = torch.arange(q.shape[2], device=q.device)
            distance = place[:, None] - place[None, :]
            mask = (distance >= 0) & (distance < sliding_window)
        output = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output if number == 1 else output[:, :, packing.prefix :])
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _flash_can(query: torch.Tensor) -> bool:
    """Whether FlashAttention 2 takes such tensors: half precision, heads of at most 256, an NVIDIA GPU since Ampere."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 256
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _in_one_call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scaling: float | None,
    sliding_window: int | None,
    attend: Callable[..., Any],
    shares: bool,
) -> torch.Tensor:
    """`packed_attention` by a kernel that takes sequences of several lengths; (1, tokens, heads, head size).

    The last query of a sequence sees its last key, so the queries after a prefix see all of it.
    """
    starts, key_starts, places = packing.bounds.on(query.device)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if packing.prefix:
        k, v = k.index_select(0, places), v.index_select(0, places)
    options = {}
    if q.shape[1] != k.shape[1]:
        if shares:
            options["enable_gqa"] = True
        else:
            k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    longest = packing.bounds.longest
    output: torch.Tensor = attend(q, k, v, starts, key_starts, *longest, scale=scaling, window_size=window, **options)
    return output[None]


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> Any:
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.to(x.dtype).t()
        output = functional.linear(flat, weight, bias)
        output.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale = scale
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        flat, low, weight, a, b = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        g_low = (g @ b.to(g.dtype)).mul_(ctx.scale)
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = (g @ weight).addmm_(g_low, a.to(g.dtype)).view(*gradient.shape[:-1], -1)
        g_a = (g_low.t() @ flat).to(a.dtype)
        g_b = (g.t() @ low).mul_(ctx.scale).to(b.dtype)
        return g_x, None, None, g_a, g_b, None


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weightᵀ` against `targets`; the gradient for `hidden` is computed along with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scratch: _Scratch) -> Any:
        """`hidden` (tokens, size), `weight` (vocabulary, size) -> (tokens, 2) in float32: the loss in nats, and 1 where the
        target was the most probable token, else 0."""
        count, vocabulary = hidden.shape[0], weight.shape[0]
        step = max(1, LOGITS_AT_ONCE // vocabulary)
        if hidden.device.type == "cpu":
            columns, step = COLUMNS, -(-count // -(-count // step))  # equal chunks: a short one costs as much as a long one
        else:
            columns, step = vocabulary, step - (step % 128 if step > 128 else 0)  # whole tiles of the matrix product
        logits, probabilities = scratch.of(hidden, min(step, count), vocabulary)
        result = hidden.new_empty(count, 2, dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            chosen = targets[part, None]
            held, probability = logits[: len(chosen)], probabilities[: len(chosen)]
            for column in range(0, vocabulary, columns):
                torch.mm(hidden[part], weight[column : column + columns].t(), out=held[:, column : column + columns])
            torch.softmax(held, dim=-1, dtype=torch.float32, out=probability)
            at_target = probability.gather(1, chosen)
            result[part, 0:1] = -at_target.clamp_min(torch.finfo(torch.float32).tiny).log()
            result[part, 1:2] = (at_target >= probability.amax(dim=-1, keepdim=True)).float()
            if gradient is not None:
                probability.scatter_add_(1, chosen, at_target.new_full(chosen.shape, -1.0))
                gradient[part] = _weighted_rows(probability, weight, chosen)
        ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * g[:, 0:1].to(gradient.dtype), None, None, None


def _weighted_rows(probability: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`probability @ weight`, on a CPU without the words that no token of the chunk gives a probability worth adding."""
    if probability.device.type != "cpu":
        return probability.to(weight.dtype) @ weight
    wanted = probability.amax(dim=0) > NEGLIGIBLE
    wanted[targets] = True
    columns = wanted.nonzero().squeeze(1)
    if 2 * len(columns) > len(wanted):
        return probability.to(weight.dtype) @ weight
    return probability.index_select(1, columns).to(weight.dtype) @ weight.index_select(0, columns)


class _Scratch:
    """Room for a few rows of logits and of probabilities, kept from step to step: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self._held: tuple[torch.Tensor, torch.Tensor] | None = None

    def of(self, like: torch.Tensor, rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        held = self._held
        if held is None or held[0].shape[0] < rows or held[0].device != like.device or held[0].dtype != like.dtype:
            shape = (rows, vocabulary)
            held = self._held = (like.new_empty(shape), like.new_empty(shape, dtype=torch.float32))
        return held


def attend_packed(causal: Any) -> None:
    """Makes a Hugging Face model attend as `packed_attention` does: it takes `packing=Packing(...)` from then on."""
    AttentionInterface.register(ATTENTION, packed_attention)
    causal.set_attn_implementation(ATTENTION)


def prepare(model: Any) -> Any:
    """Exchanges the three parts in `model` (with or without a PEFT adapter), in place, and returns it.

    Raises `ModelError` for a model whose attention cannot be exchanged.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config
    if not getattr(causal, "_supports_attention_backend", False) or getattr(config, "attn_logit_softcapping", None):
        raise ModelError(
            f"Models of the type {config.model_type!r} cannot be trained: their attention is of a kind of its own.",
            hint="choose a Llama, Qwen, Gemma 3 or SmolLM2 base",
        )
    attend_packed(causal)
    for module in model.modules():
        if _is_plain_lora(module):
            module.forward = MethodType(_lora_forward, module)
    head = causal.get_output_embeddings()
    special = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    if (
        type(head) is torch.nn.Linear
        and head.bias is None
        and not head.weight.requires_grad
        and not any(getattr(config, name, None) for name in special)
    ):
        scratch = _Scratch()
        head.kosent_targets = None
        head.forward = MethodType(lambda self, hidden: _head_forward(self, hidden, scratch), head)
    return model


def _is_plain_lora(module: Any) -> bool:
    from peft.tuners.lora import Linear

    if not isinstance(module, Linear) or type(module.base_layer) is not torch.nn.Linear or len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    dropout = module.lora_dropout[name]
    return bool(
        name in module.lora_A
        and not module.use_dora.get(name)
        and module.lora_B[name].bias is None
        and not module.base_layer.weight.requires_grad
        and (isinstance(dropout, torch.nn.Identity) or dropout.p == 0)
    )


def _lora_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    base, name = self.base_layer, self.active_adapters[0]
    output: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
    )
    return output


def _head_forward(head: Any, hidden: torch.Tensor, scratch: _Scratch) -> torch.Tensor:
    """Losses in place of logits while targets are set (`row_loss`), logits otherwise."""
    if head.kosent_targets is None:
        return functional.linear(hidden, head.weight)
    losses: torch.Tensor = _FrozenHeadLoss.apply(hidden[0], head.weight, head.kosent_targets, scratch)  # type: ignore[no-untyped-call]
    return losses[None]


def row_loss(model: Any, row: Row, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a row's supervised tokens: the summed cross-entropy in nats, and how many the model holds most probable.

    `model` is a prepared one (`prepare`), perhaps wrapped for several processes.
    """
    inner = model.module if hasattr(model, "module") else model
    head = inner.get_output_embeddings()
    targets = torch.tensor(row.targets, device=device)
    fused = hasattr(head, "kosent_targets")
    if fused:
        head.kosent_targets = targets
    try:
        output = model(
            input_ids=torch.tensor([row.ids], device=device),
            position_ids=torch.tensor([row.positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(row.predictors, device=device),
            packing=Packing(row.prefix, row.lengths),
        ).logits[0]
    finally:
        if fused:
            head.kosent_targets = None
    if fused:
        return output[:, 0].sum(), output[:, 1].sum()
    losses = functional.cross_entropy(output.float(), targets, reduction="sum")
    return losses, (output.detach().argmax(dim=-1) == targets).sum().float()
