"""The trainings that `finetune.py` compares with `kosent finetune`, each in a process of its own; and the common evaluator.

    python benchmarks/finetune_contenders.py NAME JOB.json OUTPUT

`finetune.py` starts it; by hand it serves to look at one contender alone. JOB.json holds token ids and labels of every dialogue
in their order, so that all train on the same; nothing of KoSent is imported here, and LLaMA-Factory's own Python can run it.
OUTPUT gets `steps.json` (one entry a step, see `Steps`) and `adapter/`; the evaluator writes `held_out.json`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

IGNORED = -100
TRL = {
    # name: packing, and whether the precision is that of the others instead of TRL's default
    "trl": (False, False),
    "trl-same-precision": (False, True),
    "trl-packing": (True, False),
    "trl-packing-same-precision": (True, True),
}
Job = dict[str, Any]


class Steps:
    """What each step trained on and took: `seconds`, `dialogues`, `supervised` tokens, `checksum` of their ids, `loss` (nats)."""

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []
        self._mark = time.perf_counter()

    def start(self) -> None:
        self._mark = time.perf_counter()

    def trained(self, batch: Any, loss: Any) -> None:
        """Notes what one forward and backward pass was given."""
        labels, positions = batch["labels"], batch.get("position_ids")
        learnt = labels[labels != IGNORED]
        # in a packed row each dialogue begins at position 0
        dialogues = len(labels) if positions is None else int((positions == 0).sum())
        entry = {"dialogues": dialogues, "supervised": learnt.numel(), "checksum": int(learnt.sum()), "loss": float(loss)}
        self.entries.append(entry)

    def ended(self) -> None:
        """Closes a step; its seconds run from the end of the one before, so that everything between is counted."""
        now = time.perf_counter()
        self.entries[-1]["seconds"] = now - self._mark
        self._mark = now

    def write(self, output: Path) -> None:
        (output / "steps.json").write_text(json.dumps(self.entries), encoding="utf-8")


def lora(job: Job) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"], target_modules=job["targets"], task_type="CAUSAL_LM"
    )


def collate(dialogues: list[Job], padding: int) -> dict[str, Any]:
    """Rows of equal length: ids, attention mask and labels, padded on the right."""
    import torch

    width = max(len(dialogue["input_ids"]) for dialogue in dialogues)

    def rows(name: str, fill: int) -> Any:
        return torch.tensor([dialogue[name] + [fill] * (width - len(dialogue[name])) for dialogue in dialogues])

    ones = [{"mask": [1] * len(dialogue["input_ids"])} for dialogue in dialogues]
    mask = torch.tensor([one["mask"] + [0] * (width - len(one["mask"])) for one in ones])
    return {"input_ids": rows("input_ids", padding), "labels": rows("labels", IGNORED), "attention_mask": mask}


def padded(job: Job, output: Path) -> None:
    """A plain PyTorch loop: right-padded batches, logits of every position, the model's own loss."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=getattr(torch, job["precision"]))
    torch.manual_seed(job["seed"])
    model = get_peft_model(base, lora(job))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["learning_rate"], weight_decay=job["weight_decay"])
    schedule = get_linear_schedule_with_warmup(optimizer, job["warmup_steps"], job["steps"])
    model.train()
    steps = Steps()
    for start in range(0, len(job["dialogues"]), job["batch"]):
        batch = collate(job["dialogues"][start : start + job["batch"]], tokenizer.pad_token_id)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, job["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        steps.trained(batch, loss.detach())
        steps.ended()
    steps.write(output)
    model.save_pretrained(output / "adapter")


def watch(steps: Steps) -> Any:
    """A callback that times the steps of a transformers Trainer, whose `training_step` from now on notes what it is given."""
    from transformers import Trainer, TrainerCallback

    original = Trainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        loss = original(self, model, inputs, *more, **named)
        steps.trained(inputs, loss)
        return loss

    Trainer.training_step = training_step

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *more: Any, **named: Any) -> None:
            steps.start()

        def on_step_end(self, *more: Any, **named: Any) -> None:
            steps.ended()

    return Clock()


def trainer_settings(job: Job) -> dict[str, Any]:
    """What a Trainer must be told; everything else stays as it comes."""
    return {
        "use_cpu": True,
        "per_device_train_batch_size": job["batch"],
        "max_steps": job["steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": job["warmup_steps"],
        "weight_decay": job["weight_decay"],
        "max_grad_norm": job["max_grad_norm"],
        "seed": job["seed"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def packed_length(dataset: Any, rows: int) -> int:
    """The shortest row length, in tokens, with which TRL packs `dataset` into at most `rows` rows."""
    from trl.data_utils import pack_dataset

    shortest = max(len(ids) for ids in dataset["input_ids"])
    longest = sum(len(ids) for ids in dataset["input_ids"])
    while shortest < longest:
        middle = (shortest + longest) // 2
        if len(pack_dataset(dataset, middle)) > rows:
            shortest = middle + 1
        else:
            longest = middle
    return shortest


def trl(job: Job, output: Path, packing: bool, same_precision: bool) -> None:
    """TRL's SFTTrainer at its defaults. On a CPU these are float32 weights, bfloat16 autocast and gradient checkpointing."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    dataset = Dataset.from_list(job["dialogues"])
    settings: dict[str, Any] = trainer_settings(job)
    if packing:
        length = packed_length(dataset, job["steps"])
        settings |= {"packing": True, "max_length": length, "per_device_train_batch_size": 1, "num_train_epochs": 1}
        settings["max_steps"] = -1  # one pass, which is as many steps as there are rows
        print(f"rows of {length} tokens")
    if same_precision:
        settings |= {"bf16": job["precision"] == "bfloat16", "model_init_kwargs": {"dtype": job["precision"]}}
    steps = Steps()
    clock = watch(steps)
    trainer = SFTTrainer(
        model=job["base"],
        args=SFTConfig(output_dir=str(output / "trainer"), train_sampling_strategy="sequential", **settings),
        train_dataset=dataset,
        peft_config=lora(job),
        callbacks=[clock],
    )
    weights = {str(parameter.dtype) for parameter in trainer.model.parameters()}
    print(f"weights {weights}, bf16 {trainer.args.bf16}, gradient checkpointing {trainer.args.gradient_checkpointing}")
    trainer.train()
    steps.write(output)
    trainer.model.save_pretrained(output / "adapter")


def base_of_type(job: Job, folder: Path) -> Path:
    """Links to the base's files beside a `config.json` that names the job's precision: LLaMA-Factory reads it from there."""
    folder.mkdir()
    for file in Path(job["base"]).resolve().iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((Path(job["base"]) / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": job["precision"], "torch_dtype": job["precision"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def llama_factory(job: Job, output: Path) -> None:
    """LLaMA-Factory's `sft` stage, given our ids and labels through its `tokenized_path`."""
    import transformers  # noqa: F401  it looks for the real torchaudio, so it comes before the stand-in

    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        # LLaMA-Factory imports it for sound, and the package index has it for CUDA only
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp

    rows = [dialogue | {"attention_mask": [1] * len(dialogue["input_ids"])} for dialogue in job["dialogues"]]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(output / "tokenized"))
    steps = Steps()
    settings = trainer_settings(job) | {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(base_of_type(job, output / "base")),
        "finetuning_type": "lora",
        "lora_rank": job["rank"],
        "lora_alpha": int(job["alpha"]),
        "lora_dropout": job["dropout"],
        "lora_target": "all",
        "template": "gemma",
        "cutoff_len": job["max_length"],
        "dataset": "ours",
        "tokenized_path": str(output / "tokenized"),
        "disable_shuffling": True,
        "bf16": job["precision"] == "bfloat16",
        "output_dir": str(output / "adapter"),
    }
    run_exp(settings, callbacks=[watch(steps)])
    steps.write(output)


def held_out_loss(model: Any, dialogues: list[Job]) -> float:
    """Mean loss of the supervised tokens, in nats, one dialogue at a time."""
    import torch

    total, count = 0.0, 0
    for dialogue in dialogues:
        labels = torch.tensor(dialogue["labels"])
        chosen = (labels != IGNORED).nonzero().squeeze(1)
        with torch.no_grad():  # the label at i is predicted from i - 1
            logits = model(torch.tensor([dialogue["input_ids"]]), use_cache=False, logits_to_keep=chosen - 1).logits[0]
        total += torch.nn.functional.cross_entropy(logits.float(), labels[chosen], reduction="sum").item()
        count += len(chosen)
    return total / count


def evaluate(job: Job, output: Path) -> None:
    """Held-out loss of the base and of each `OUTPUT/*/adapter`, all in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32).eval()
    found = {"base": held_out_loss(base, job["held_out"])}
    for folder in sorted(output.glob("*/adapter")):
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        found[folder.parent.name] = held_out_loss(model, job["held_out"])
        base = model.unload()
    (output / "held_out.json").write_text(json.dumps(found), encoding="utf-8")


def contenders() -> Iterator[tuple[str, Callable[[Job, Path], None]]]:
    yield "padded", padded
    yield "llama-factory", llama_factory
    yield "evaluate", evaluate
    for name, (packing, same) in TRL.items():
        yield name, lambda job, output, packing=packing, same=same: trl(job, output, packing, same)


def main() -> None:
    name, job, output = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers 5.23 through peft 0.21
    random.seed(job["seed"])
    dict(contenders())[name](job, output)


if __name__ == "__main__":
    main()
