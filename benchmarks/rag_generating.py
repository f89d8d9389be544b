"""Keeps one core busy in another process: a GGUF that generates without end, or numpy where there is none.

`python rag_generating.py [FILE.gguf]` is that process; it says "ready" once it is under way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def generating(gguf: Path | None) -> Iterator[None]:
    command = [sys.executable, __file__, *([str(gguf)] if gguf else [])]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                sys.exit(f"{' '.join(command)} does not generate.")
            yield
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended before it was stopped.")
        finally:
            process.kill()


def generate(gguf: Path) -> None:
    from kosent.llama_cpp_model import LlamaCppChat

    model = LlamaCppChat(path=str(gguf), context=2048, max_tokens=512, threads=1)
    started = False
    while True:
        for _ in model.stream("긴 이야기를 하나 들려줘."):
            if not started:
                print("ready", flush=True)
                started = True


def multiply() -> None:
    import numpy as np

    matrix = np.random.default_rng(0).random((512, 512), dtype=np.float32)
    print("ready", flush=True)
    while True:
        matrix @ matrix


if __name__ == "__main__":
    generate(Path(sys.argv[1])) if len(sys.argv) > 1 else multiply()
