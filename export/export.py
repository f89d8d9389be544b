"""Merges a run's adapter into its base and writes one GGUF file that llama.cpp reads.

    kosent export run                              run/kosent-q8_0.gguf
    kosent export run --quantization f16 --output my.gguf
    kosent export run --base models/base           a run that was trained elsewhere: its base is in this folder here

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
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="where the base is now, when it has moved; remembered")


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
    if trained.weights is not None:
        base = trained.weights
    elif args.base:
        trained = rebased(trained, args.base)
        base = Path(trained.base)
    else:
        base = Path(hf.resolve_base(trained.base))
        check_base(trained, base, hf.base_hashes(str(base)) if trained.facts["base"]["sha256"] else {})
    with progress("exporting", 236) as advance:
        write_gguf(
            base, None if trained.weights else trained.adapter, target, quantization=args.quantization, template=trained.template,
            layout=trained.layout, name="KoSent", advance=advance,
        )  # fmt: skip
        advance(236, "")
    remember_export(target)
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.0f} MB). Next: kosent verify {trained.path} {target}")
    return 0


def rebased(trained: RunDirectory, folder: Path) -> RunDirectory:
    """The run with `folder` as its base, remembered in `run.json`. Raises `UsageError` when that is another base."""
    from kosent import hf

    if not folder.is_dir():
        raise UsageError(f"--base: there is no folder {folder}.", hint="name the folder that holds the base's config.json")
    facts = hf.base_facts(str(folder), trained.path)
    check_base(trained, folder, facts["sha256"])
    return trained.with_base(facts)


def check_base(trained: RunDirectory, folder: Path, found: dict[str, str]) -> None:
    """Raises `UsageError` with the files whose hash in `found` is not the recorded one, or that only one side has."""
    recorded = trained.facts["base"]["sha256"]
    other = sorted(name for name in {*recorded, *found} if recorded.get(name) != found.get(name))
    if other:
        raise UsageError(
            f"The base in {folder} is not the one that {trained.path} was trained on; other files: {', '.join(other)}.",
            hint=f"kosent export {trained.path} --base FOLDER     (a folder that holds the old one); or train again",
        )
