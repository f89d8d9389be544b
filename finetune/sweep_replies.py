"""What one model answers to ten fixed prompts, greedily: the part of `kosent sweep` that needs the model in memory.

`kosent sweep` starts it in a process of its own, one for each model, so that the memory is free again for the next training:

    python -m kosent.finetune.sweep_replies MODEL replies.json "SYSTEM MESSAGE"

Replies are kept while weights, template, prompts and system message are what they were.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kosent.errors import KosentError
from kosent.files import read_json, sha256, sha256_folder, write_json
from kosent.run_directory import RunDirectory, is_run

LONGEST = 64
"""Longest reply, in tokens."""
FILE = "replies.json"


def prompts() -> list[str]:
    """The ten prompts, none of which stands in the starter corpus."""
    text = files("kosent").joinpath("data", "sweep_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def asked(model: str, system: str) -> dict[str, Any]:
    """Everything the replies depend on, as it is written beside them."""
    from kosent import hf

    path = Path(model)
    if is_run(path):
        facts = RunDirectory.open(path).facts
        weights = {f"{part}/{name}": hash for part in ("adapter", "model") for name, hash in sha256_folder(path / part).items()}
        weights |= {"chat_template.jinja": sha256(path / "chat_template.jinja")}
        weights |= {f"base/{name}": hash for name, hash in facts["base"]["sha256"].items()}
        name = facts["base"]["name"]
    else:
        weights, name = hf.base_hashes(model), model
    return {"base": name, "sha256": weights, "system_message": system, "prompts": prompts(), "max_tokens": LONGEST}


def answer(model: str, target: Path, system: str) -> None:
    """Writes the replies of a run directory or a base to `target`, unless they stand there."""
    facts = asked(model, system)
    if target.is_file():
        earlier = read_json(target)
        if {key: earlier.get(key) for key in facts} == facts:
            return
    from kosent import hf

    hf.quiet()
    from kosent.evaluation.folder import Turn
    from kosent.evaluation.generate import generate

    opening = [{"role": "system", "content": system}] if system else []
    turns = [Turn(str(number), [*opening, {"role": "user", "content": text}]) for number, text in enumerate(prompts())]
    replies = generate(hf.load_for_inference(model, dtype=hf.fast_precision()), turns, max_tokens=LONGEST)
    write_json(target, facts | {"replies": [{"text": reply.text, "ended": reply.ended} for reply in replies]})


def main(arguments: Sequence[str]) -> int:
    model, target, system = arguments
    try:
        answer(model, Path(target), system)
    except KosentError as error:
        print(f"kosent sweep: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
