"""Checks that an exported GGUF says what the trained model says.

    kosent verify run run/kosent-q8_0.gguf --data data

Tokens: the prompts of a set of conversations (with and without a system message, one to three turns, emoji, ㅋㅋ, code,
spaces, turn markers typed by the user) must have equal token ids in transformers and in llama.cpp.
Distribution: over held-out replies, the most probable next token must be the trained model's, and the Kullback-Leibler
divergence small. Limits for q8_0: 92 % and 0.01 nats per token; f16 and f32: 99.5 % and 0.0001; the others: docs/export.md.
The result is written beside the file; a file that does not hold means exit code 6.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kosent import extras
from kosent.errors import ModelError, VerificationError
from kosent.export.quantizer import K_QUANTS
from kosent.files import sha256, write_json
from kosent.progress import progress
from kosent.prompts import SYSTEM_MESSAGE, Message, render
from kosent.run_directory import RunDirectory

if TYPE_CHECKING:
    from kosent.finetune.encode import Dialogue
    from kosent.hf import Trained

LIMITS = {
    "f32": (0.995, 1e-4), "f16": (0.995, 1e-4), "bf16": (0.98, 1e-3), "q8_0": (0.92, 0.01), "q6_k": (0.9, 0.03),
    "q5_k_m": (0.9, 0.06), "q5_k_s": (0.9, 0.06), "q4_k_m": (0.9, 0.1), "q4_k_s": (0.9, 0.1), "q3_k_m": (0.8, 0.25),
}  # fmt: skip
"""Quantization -> (least share of equal most probable tokens, greatest mean KL divergence in nats).

f16 to q6_k are calibrated on Gemma 3 270M, which is often torn between two words (docs/export.md has what was measured); q5 to
q3 are what may be asked of a larger model. Gemma 3 270M does not reach them.
"""

FILE_TYPES = {"0": "f32", "1": "f16", "32": "bf16", "7": "q8_0"} | {str(number): name for name, number in K_QUANTS.items()}
"""`general.file_type` of GGUF -> quantization (llama.h, enum llama_ftype)."""

TEXTS = (
    "오늘 회사에서 실수를 해서 너무 속상해요.",
    "ㅋㅋㅋㅋ 진짜? ㅠㅠ 😢👨‍👩‍👧",
    "  앞뒤  칸과\n\n줄바꿈\t탭  ",
    "def f(x):\n    return x + 1",
    "<end_of_turn>\n<start_of_turn>model\n<|im_end|> <|eot_id|> <bos>",
    "漢字와 English, 1,234원!",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the run that the file was exported from")
    parser.add_argument("gguf", type=Path, metavar="FILE.gguf")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="prepared data; its test dialogues are used")
    parser.add_argument("--dialogues", type=int, default=12, help="how many test dialogues (12)")


def conversations() -> list[list[Message]]:
    """The conversations whose prompts are compared: each text first, second and third turn, with and without system."""
    found: list[list[Message]] = []
    for text in TEXTS:
        user = {"role": "user", "content": text}
        turn = [user, {"role": "assistant", "content": "그러셨군요."}]
        for system in ([], [{"role": "system", "content": SYSTEM_MESSAGE}]):
            found += [[*system, user], [*system, *turn, user], [*system, *turn, *turn, user]]
    return found


@dataclass(frozen=True)
class Agreement:
    positions: int
    same_top: float
    """Share of positions at which both models find the same token most probable."""
    divergence: float
    """Mean KL(trained || exported), nats per token."""


def run(args: argparse.Namespace) -> int:
    extras.require("finetune", "embedded", what="`kosent verify`")
    trained_run = RunDirectory.open(args.run_directory)
    if not args.gguf.is_file():
        raise ModelError(f"There is no file {args.gguf}.", hint=f"kosent export {args.run_directory}")
    from llama_cpp import Llama

    from kosent import hf
    from kosent.finetune.encode import encode
    from kosent.finetune.plan import read_split

    hf.quiet()
    messages = read_split(args.data, "test")[: args.dialogues]
    trained = hf.load_for_inference(str(args.run_directory), dtype="float32")
    try:
        exported = Llama(str(args.gguf), n_ctx=trained_run.facts["recipe"]["max_length"], logits_all=True, verbose=False)
    except ValueError as error:
        raise ModelError(f"llama.cpp cannot load {args.gguf}: {error}", hint=f"kosent export {args.run_directory}") from error
    different = compare_tokens(trained, exported)
    dialogues = [encode(m, trained.tokenizer, trained.template, trained.layout, exported.n_ctx()) for m in messages]
    agreement = compare_distributions(trained, exported, dialogues)
    least, greatest = LIMITS[FILE_TYPES[exported.metadata["general.file_type"]]]
    holds = not different and agreement.same_top >= least and agreement.divergence <= greatest
    result = {
        "gguf": {"name": args.gguf.name, "sha256": sha256(args.gguf)},
        "tokens": {"conversations": len(conversations()), "different": different},
        "distribution": {
            "dialogues": len(dialogues), "positions": agreement.positions, "same_top": round(agreement.same_top, 6),
            "divergence": round(agreement.divergence, 8), "limits": {"same_top": least, "divergence": greatest},
        },
        "holds": holds,
    }  # fmt: skip
    target = args.gguf.with_suffix(".verification.json")
    write_json(target, result)
    print(f"Prompt token ids: {len(conversations()) - len(different)} of {len(conversations())} conversations equal.")
    print(
        f"Next token: {agreement.same_top:.2%} of {agreement.positions} the same (at least {least:.1%}), "
        f"divergence {agreement.divergence:.5f} nats (at most {greatest})."
    )
    if not holds:
        raise VerificationError(
            f"{args.gguf} does not say what {args.run_directory} says; see {target}.", hint=f"kosent export {args.run_directory}"
        )
    print(f"Verified. Next: kosent chat --model {args.gguf}")
    return 0


def compare_tokens(trained: Trained, exported: Any) -> list[str]:
    """The texts of the conversations whose prompt token ids differ between transformers and llama.cpp.

    Each side uses its own means: transformers' `apply_chat_template` with the run's template, and llama.cpp's tokenizer on the
    template stored in the file.
    """
    stored = exported.metadata["tokenizer.chat_template"]
    different = []
    for messages in conversations():
        protected = [{"role": m["role"], "content": trained.layout.protect(m["content"])} for m in messages]
        expected = trained.tokenizer.apply_chat_template(
            protected, chat_template=trained.template, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        text = render(messages, stored, trained.layout, bos_token=trained.tokenizer.bos_token or "", add_generation_prompt=True)
        if expected != exported.tokenize(text.encode(), add_bos=False, special=True):
            different.append(text)
    return different


def compare_distributions(trained: Trained, exported: Any, dialogues: Sequence[Dialogue]) -> Agreement:
    """Compares next-token distributions at every supervised position of `dialogues`."""
    import torch

    same = 0
    divergence = 0.0
    positions = 0
    with progress("verifying", len(dialogues)) as advance, torch.no_grad():
        for done, dialogue in enumerate(dialogues):
            advance(done, "")
            at = [i - 1 for i, label in enumerate(dialogue.labels) if label >= 0]
            ids = torch.tensor([dialogue.ids], device=trained.model.device)
            logits = trained.model(input_ids=ids, use_cache=False, logits_to_keep=torch.tensor(at)).logits[0].float().cpu()
            exported.reset()
            exported.eval(dialogue.ids)
            other = torch.from_numpy(exported.scores[at].copy())
            same += int((logits.argmax(1) == other.argmax(1)).sum())
            p, q = logits.log_softmax(1), other.log_softmax(1)
            divergence += float((p.exp() * (p - q)).sum())
            positions += len(at)
        advance(len(dialogues), "")
    return Agreement(positions, same / positions, divergence / positions)
