"""K-quants by llama.cpp's own quantizer, in a process of its own: it can be stopped, and its memory goes back when it ends.

    python -m kosent.export.quantizer IN.gguf OUT.gguf q4_k_m

prints one line a tensor, "DONE TOTAL", for the process that started it.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kosent.errors import ModelError
from kosent.stages import die_with_parent

K_QUANTS = {"q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}
"""-> `llama_ftype` (llama.h)."""
SOURCE = "f16"
"""The type that is quantized from: the merged float32 values are rounded to it first."""


def quantize_file(source: Path, target: Path, quantization: str, advance: Callable[[int, int], None]) -> None:
    """Writes `source` (f16) as one of `K_QUANTS` into `target`; `advance(done, total)` counts tensors. Raises `ModelError`."""
    command = [sys.executable, "-m", __name__, str(source), str(target), quantization]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent, process_group=0
    )
    assert process.stdout and process.stderr
    try:
        for line in process.stdout:
            if found := re.fullmatch(r"(\d+) (\d+)\n", line):
                advance(int(found[1]), int(found[2]))
        said = process.stderr.read().strip()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        how = said.splitlines()[-1] if said else f"it ended with {process.returncode}"
        raise ModelError(f"llama.cpp could not quantize to {quantization}: {how}", hint="kosent export RUN --quantization q8_0")


def main() -> int:
    from llama_cpp import llama_log_set, llama_model_quantize, llama_model_quantize_default_params

    source, target, quantization = sys.argv[1:]
    errors: list[str] = []

    def log(level: int, text: bytes, data: object) -> None:
        line = text.decode(errors="replace")
        if found := re.match(r"\[ *(\d+)/ *(\d+)\]", line):
            print(*found.groups(), flush=True)
        elif level == ERROR or "failed" in line:
            errors.append(line.strip())

    logger = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(log)
    llama_log_set(logger, None)
    parameters = llama_model_quantize_default_params()
    parameters.ftype = K_QUANTS[quantization]
    failed = llama_model_quantize(source.encode(), target.encode(), parameters)
    if failed:
        print(" ".join(errors) or f"code {failed}", file=sys.stderr)
    return int(failed != 0)


ERROR = 4
"""`GGML_LOG_LEVEL_ERROR` (ggml.h)."""

if __name__ == "__main__":
    sys.exit(main())
