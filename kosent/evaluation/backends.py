"""The models of an evaluation, whatever runs them, behind one interface.

    starter, a folder, ORG/NAME      transformers; a folder may be a run (base and adapter) or an adapter of PEFT
    FILE.gguf                        llama.cpp in this process, many prompts at once
    ollama:NAME, openai:NAME@URL     a server, some prompts at once

All get the same messages, by the chat template that belongs to the model, without safety cards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from kosent import extras
from kosent.errors import InterruptedReplyError, KosentError, OutOfMemoryError, ServerDownError, UsageError
from kosent.evaluation.folder import Answer, Turn
from kosent.evaluation.generate import Decoding, Done
from kosent.evaluation.together import together
from kosent.run_directory import is_run

Advance = Callable[[int, str], None]


class Backend(Protocol):
    kind: str
    """transformers, llama.cpp, ollama or openai."""
    precision: str
    """Of the weights, as far as it is known."""

    def identity(self) -> str:
        """What changes when other weights are behind the name; nothing is loaded for it. Raises `KosentError` where there is no
        such model."""
        ...

    def answer(self, turns: Sequence[Turn], numbers: Sequence[int], decoding: Decoding, done: Done) -> None:
        """`done(place, answer)` for every turn, in any order, from this thread. `numbers` are the prompts' own, for seeds. Raises
        what makes all replies fail: a server that is gone, weights that do not fit into memory."""
        ...

    def log_likelihoods(self, turns: Sequence[Turn], advance: Advance) -> list[tuple[float, int]] | None:
        """Of each turn's reference: sum of log probabilities (natural logarithm) and number of tokens, its end of turn included.
        None where the backend cannot say."""
        ...

    def close(self) -> None: ...


def backend(name: str, *, parallel: int = 4) -> Backend:
    """Of a model's name. `parallel` prompts are sent to a server at once."""
    if name.startswith(("ollama:", "openai:")):
        return Served(name, parallel)
    if name.endswith(".gguf"):
        return LlamaCpp(name)
    return Transformers(name)


class Transformers:
    kind = "transformers"

    def __init__(self, name: str) -> None:
        from kosent import hf

        self.name = name
        self.precision = hf.fast_precision()
        self._trained: Any = None

    def identity(self) -> str:
        from kosent import hf

        folder = Path(self.name)
        if is_run(folder) or (folder / "adapter_config.json").is_file():
            return _digest(folder)
        return _digest(Path(hf.resolve_base(self.name)))

    def answer(self, turns: Sequence[Turn], numbers: Sequence[int], decoding: Decoding, done: Done) -> None:
        from kosent.evaluation.generate import generate_each

        generate_each(self._loaded(), turns, decoding, done, numbers=numbers)

    def log_likelihoods(self, turns: Sequence[Turn], advance: Advance) -> list[tuple[float, int]]:
        from kosent.evaluation.generate import log_likelihoods

        return log_likelihoods(self._loaded(), turns, advance)

    def _loaded(self) -> Any:
        from kosent import hf

        if self._trained is None:
            self._trained = hf.load_for_inference(self.name, dtype=self.precision)
        return self._trained

    def close(self) -> None:
        self._trained = None


class LlamaCpp:
    kind = "llama.cpp"

    def __init__(self, name: str) -> None:
        extras.require("embedded", what=f"Answering from {Path(name).name} in this process")
        self.name = name
        self.precision = "as in the file"

    def identity(self) -> str:
        if not Path(self.name).is_file():
            raise UsageError(f"There is no file {self.name}.", hint="kosent models     (lists what is here)")
        return _digest(Path(self.name))

    def answer(self, turns: Sequence[Turn], numbers: Sequence[int], decoding: Decoding, done: Done) -> None:
        prompts = [self._batch.prompt(turn.messages) for turn in turns]
        sampling = (decoding.temperature, decoding.top_p, decoding.seed)
        self._batch.replies(prompts, max_tokens=decoding.max_tokens, sampling=sampling, done=done, numbers=numbers)

    def log_likelihoods(self, turns: Sequence[Turn], advance: Advance) -> list[tuple[float, int]]:
        conversations = [self._batch.conversation(turn.messages, turn.reference or "") for turn in turns]
        found: list[tuple[float, int]] = self._batch.log_likelihood(conversations, lambda count: advance(count, ""))
        return found

    @cached_property
    def _batch(self) -> Any:
        from kosent.evaluation.gguf_batch import GgufBatch

        return GgufBatch(self.name)

    def close(self) -> None:
        if "_batch" in self.__dict__:
            self._batch.close()
            del self._batch


class Served:
    def __init__(self, name: str, parallel: int) -> None:
        self.name, self.kind, self._parallel = name, name.partition(":")[0], parallel
        self.precision = "as on the server"

    def identity(self) -> str:
        from kosent.models import ollama_digest, resolve_model

        found = resolve_model(self.name)
        return ollama_digest(found.name) if self.kind == "ollama" else f"{found.name} at {found.url}"

    def answer(self, turns: Sequence[Turn], numbers: Sequence[int], decoding: Decoding, done: Done) -> None:
        from kosent.models import chat_model
        from kosent.settings import load_settings

        chosen = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature, "top_p": decoding.top_p}
        model = chat_model(self.name, settings=load_settings(chosen))

        def ask(place: int) -> Answer:
            seeded = model.model_copy(update={"seed": decoding.seed + numbers[place]})
            return self._asked(seeded, turns[place])

        for place, one in together(range(len(turns)), ask, self._parallel):
            done(place, one)

    @staticmethod
    def _asked(model: Any, turn: Turn) -> Answer:
        from langchain_core.messages import convert_to_messages

        try:
            reply = model.invoke(convert_to_messages([dict(message) for message in turn.messages]))
        except (ServerDownError, OutOfMemoryError):
            raise
        except InterruptedReplyError as error:
            return Answer(error.text.strip(), False, str(error))
        except KosentError as error:
            return Answer("", False, str(error))
        facts, usage = reply.response_metadata, reply.usage_metadata or {}
        reason = facts.get("finish_reason") or facts.get("done_reason")
        return Answer(reply.text.strip(), reason == "stop", tokens=usage.get("output_tokens"))

    def log_likelihoods(self, turns: Sequence[Turn], advance: Advance) -> None:
        return None

    def close(self) -> None:
        pass


def _digest(path: Path) -> str:
    """Of names, sizes and times of the files, so that nothing large is read."""
    if path.is_dir():
        found = [*path.glob("*"), *path.glob("adapter/*"), *path.glob("model/*")]
        files = sorted(file for file in found if file.suffix in (".json", ".safetensors", ".bin", ".jinja", ".model"))
    else:
        files = [path]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if "verification" not in file.name]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
