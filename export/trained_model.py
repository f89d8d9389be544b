"""The trained model, a layer at a time: what it says of whole dialogues, in the memory of its largest matrix.

It is built from the base's config without weights, and PEFT puts the adapter in. All dialogues go through one layer together,
whose weights are read for that and then forgotten. Nothing of the merge that `export` does is used, so the two can be compared.
Everything is float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from transformers import AutoConfig, AutoModelForCausalLM

from kosent.errors import ModelError
from kosent.export.checkpoint import Checkpoint, Tensor, readable
from kosent.finetune.encode import Dialogue
from kosent.finetune.fast import Packing, attend_packed
from kosent.finetune.rows import make_row
from kosent.progress import Advance

ROWS_AT_ONCE = 2**22
"""Values that are converted to float32 at a time."""


class TrainedModel:
    """`with TrainedModel(base, adapter) as trained: trained.hidden(dialogues)`. `adapter` None: all weights are in `base`.

    Raises `ModelError` when a weight is missing or a file is damaged.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        with readable(base):
            with init_empty_weights(include_buffers=False):
                config = AutoConfig.from_pretrained(base)
                self.model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
            if adapter:
                self.model = _with_adapter(self.model, adapter)
        attend_packed(self.model)
        self.model.eval()
        self._checkpoint = Checkpoint(base)
        decoder = self.model.get_decoder()
        self._parts: dict[str, torch.nn.Module] = {
            "model.embed_tokens": decoder.embed_tokens,
            **{f"model.layers.{number}": layer for number, layer in enumerate(decoder.layers)},
            "model.norm": decoder.norm,
            "lm_head": self.model.get_output_embeddings(),
        }

    def __enter__(self) -> TrainedModel:
        self._checkpoint.__enter__()
        try:
            covered = {f"{part}.{name}" for part, module in self._parts.items() for name, _ in module.named_parameters()}
            strange = [name for name, value in self.model.named_parameters() if value.is_meta and name not in covered]
            lacking = [name for part in self._parts for name in self._empty(part) if self._stored(name) is None]
            if strange or lacking:
                raise ModelError(f"{self._checkpoint.folder} has no weights for {', '.join([*strange, *lacking][:3])}.")
        except BaseException:
            self._checkpoint.close()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self._checkpoint.close()

    @property
    def steps(self) -> int:
        """How often `hidden` calls `advance`."""
        return len(self._parts) - 1

    @property
    def largest(self) -> int:
        """Bytes of the largest part, in float32."""
        return max(4 * sum(int(value.numel()) for value in module.parameters()) for module in self._parts.values())

    def hidden(self, dialogues: Sequence[Dialogue], advance: Advance) -> list[torch.Tensor]:
        """For each dialogue (supervised tokens, hidden size): what the head makes the next token's logits of."""
        row = make_row(dialogues)
        decoder = self.model.get_decoder()
        handles = []
        for number, part in enumerate(list(self._parts)[:-1], 1):
            load, free = self._hooks(part, partial(advance, number, ""))
            handles += [self._parts[part].register_forward_pre_hook(load), self._parts[part].register_forward_hook(free)]
        try:
            with torch.no_grad():
                states = decoder(
                    input_ids=torch.tensor([row.ids]), position_ids=torch.tensor([row.positions]), use_cache=False,
                    packing=Packing(row.prefix, row.lengths),
                ).last_hidden_state[0, row.predictors]  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
        return list(states.split([dialogue.supervised for dialogue in dialogues]))

    @contextmanager
    def head(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """A function from hidden states (tokens, hidden size) to logits (tokens, vocabulary), while its weights are held."""
        load, free = self._hooks("lm_head", lambda: None)
        capped = getattr(self.model.config, "final_logit_softcapping", None)

        def logits(states: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                found: torch.Tensor = self._parts["lm_head"](states)
            return capped * torch.tanh(found / capped) if capped else found

        load()
        try:
            yield logits
        finally:
            free()

    def _empty(self, part: str) -> list[str]:
        return [f"{part}.{name}" for name, value in self._parts[part].named_parameters() if value.is_meta]

    def _hooks(self, part: str, done: Callable[[], None]) -> tuple[Callable[..., None], Callable[..., None]]:
        module, names = self._parts[part], self._empty(part)

        def load(*unused: object) -> None:
            for name in names:
                stored = self._stored(name)
                assert stored is not None  # __enter__ looked
                set_module_tensor_to_device(module, name.removeprefix(f"{part}."), "cpu", value=_read(stored))

        def free(*unused: object) -> None:
            for name in names:
                set_module_tensor_to_device(module, name.removeprefix(f"{part}."), "meta")
            done()

        return load, free

    def _stored(self, name: str) -> Tensor | None:
        """Where a parameter of the base stands, by its name in the model with PEFT's wrappers."""
        name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        found = self._checkpoint.tensors.get(name)
        if found is None and name == "lm_head.weight":
            return self._checkpoint.tensors.get("model.embed_tokens.weight")
        return found


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The model, without weights, with the adapter's own in their places."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(str(adapter))
    config.base_model_name_or_path = None  # PEFT would warn that the base has another path now
    with init_empty_weights(include_buffers=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
        tuned = get_peft_model(model, config)
    stored = load_peft_weights(str(adapter), device="cpu")
    for name, _ in list(tuned.named_parameters()):
        if ".lora_" in name or ".modules_to_save." in name:
            key = name.replace(".default", "").replace(".modules_to_save", "")
            found = [stored.pop(one) for one in (key, key.removesuffix(".weight"), name.replace(".default", "")) if one in stored]
            if not found:
                raise ModelError(f"{adapter} lacks {key}.")
            set_module_tensor_to_device(tuned, name, "cpu", value=found[0])
    if stored:
        raise ModelError(f"{adapter} does not fit the base: {', '.join(list(stored)[:3])}.")
    return tuned.get_base_model()


def _read(stored: Tensor) -> torch.Tensor:
    """A whole tensor in float32, without a second copy of it."""
    whole = torch.empty(stored.shape, dtype=torch.float32)
    step = max(1, ROWS_AT_ONCE // max(1, whole[0].numel()))
    for start in range(0, stored.shape[0], step):
        stop = min(start + step, stored.shape[0])
        whole[start:stop] = torch.from_numpy(stored.rows(start, stop))
    return whole
