"""Merges a run's adapter into its base and writes one GGUF file that llama.cpp reads.

    kosent export run                              run/kosent-q8_0.gguf
    kosent export run --quantization f16 --output my.gguf

The merge is done tensor by tensor in float32. Afterwards: kosent verify run run/kosent-q8_0.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kosent import extras
from kosent.errors import UsageError
from kosent.progress import progress
from kosent.run_directory import RunDirectory

QUANTIZATIONS = ("f32", "f16", "q8_0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="run directory made by `kosent finetune`")
    parser.add_argument("--quantization", default="q8_0", choices=QUANTIZATIONS, help="how matrices are stored (q8_0)")
    parser.add_argument("--output", type=Path, metavar="FILE.gguf", help="where to (RUN/kosent-QUANTIZATION.gguf)")


def run(args: argparse.Namespace) -> int:
    extras.require("export", what="`kosent export`")
    trained = RunDirectory.open(args.run_directory)
    target: Path = args.output or trained.path / f"kosent-{args.quantization}.gguf"
    if target.suffix != ".gguf":
        raise UsageError(f"--output must end in .gguf, not {target.name!r}.")
    from kosent import hf
    from kosent.export.gguf_writer import write_gguf
    from kosent.models import remember_export

    hf.quiet()
    base = Path(hf.resolve_base(trained.base))
    recorded = trained.facts["base"]["sha256"]
    if recorded and hf.base_hashes(trained.base) != recorded:
        raise UsageError(
            f"The base in {base} is not the one that {trained.path} was trained on.", hint="train again, or bring it back"
        )
    if not base.is_dir():
        raise UsageError(f"{base} is not a folder; only local bases can be exported yet.")
    with progress("exporting", 236) as advance:
        write_gguf(
            base, trained.adapter, target, quantization=args.quantization, template=trained.template,
            layout=trained.layout, name="KoSent", advance=advance,
        )  # fmt: skip
        advance(236, "")
    remember_export(target)
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.0f} MB). Next: kosent verify {trained.path} {target}")
    return 0
