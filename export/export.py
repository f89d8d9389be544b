"""Merges a run's adapter into its base and writes one GGUF file that llama.cpp and Ollama read.

    kosent export run                              run/kosent-q8_0.gguf
    kosent export run --quantization q4_k_m        little more than half of that, by llama.cpp's own quantizer
    kosent export run --quantization f16 --output my.gguf
    kosent export run --ollama kosent              and puts it into the running Ollama: then `ollama run kosent`
    kosent export run --base models/base           a run that was trained elsewhere: its base is in this folder here

f32, f16, bf16 and q8_0 are written in one pass, a few rows at a time: no merged model is ever whole, in memory or on disk. The
smaller types (q3_k_m to q6_k) go through an f16 file, which is removed. Beside the file lies a Modelfile for `ollama create`,
with the template, system message and stops of training.

Before the file gets its name it is compared with the trained model, as `kosent verify` does; one that does not say what was
trained keeps the suffix .unverified, and the exit code is 6. --data DIR compares held-out dialogues; --no-verify leaves it out.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kosent import extras
from kosent.errors import KosentError, UsageError, VerificationError
from kosent.export.base import base_of, licence_of
from kosent.export.verification import NEEDS, Verification, contradiction, report_of, show, unable
from kosent.export.verify import DIALOGUES, read_held_out, verify
from kosent.files import atomic_path, sweep, write_json, write_text
from kosent.memory import free_memory
from kosent.progress import progress
from kosent.run_directory import RunDirectory

if TYPE_CHECKING:
    from kosent.export.gguf_writer import Export
    from kosent.export.modelfile import OllamaSettings

QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m")
ONE_PASS = QUANTIZATIONS[:4]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="run directory made by `kosent finetune`")
    parser.add_argument(
        "--quantization", default="q8_0", choices=QUANTIZATIONS, metavar="TYPE", help=f"{', '.join(QUANTIZATIONS)} (q8_0)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.gguf", help="where to (RUN/kosent-TYPE.gguf)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="where the base is now, when it has moved; remembered")
    parser.add_argument("--merged", type=Path, metavar="FOLDER", help="also write the whole model as a Hugging Face folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared data, whose test dialogues the file is verified on")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the file with the trained model")
    parser.add_argument("--ollama", metavar="NAME", help="create the model NAME in the running Ollama and ask it one question")
    parser.add_argument("--replace", action="store_true", help="with --ollama: even when Ollama has a model of that name")


def run(args: argparse.Namespace) -> int:
    extras.require("export", *([] if args.quantization in ONE_PASS else ["embedded"]), what="`kosent export`")
    trained = RunDirectory.open(args.run_directory)
    target: Path = args.output or trained.path / f"kosent-{args.quantization}.gguf"
    if target.suffix != ".gguf":
        raise UsageError(f"--output must end in .gguf, not {target.name!r}.")
    if target.is_dir():
        raise UsageError(f"--output: {target} is a folder.", hint="name a file")
    if args.merged and args.merged.exists() and (not args.merged.is_dir() or any(args.merged.iterdir())):
        raise UsageError(f"--merged: {args.merged} is there already and not an empty folder.", hint="name a new folder")
    from kosent.export.modelfile import ollama_settings
    from kosent.models import remember_export

    if args.ollama:
        from kosent.export import ollama_upload

        ollama_upload.check_ollama(args.ollama, replace=args.replace)
    if args.no_verify and args.data:
        raise UsageError("--data is for verifying, and --no-verify leaves that out.", hint="one of the two")
    trained, base = base_of(trained, args.base)
    able = not any(extras.missing(extra) for extra in NEEDS)
    held_out = read_held_out(args.data, DIALOGUES, trained, base) if able else []
    settings = ollama_settings(trained.layout, trained.system_message, licence=licence_of(base))
    modelfile = settings.modelfile(f"./{target.name}")
    unverified, failed = target.with_name(f"{target.name}.unverified"), target.with_suffix(".unverified.json")
    for left in (unverified, failed):
        left.unlink(missing_ok=True)  # of an earlier try
    sweep(target)
    verification = None
    if args.no_verify:
        write(trained, base, target, args.quantization, args.merged)
        report_of(target).unlink(missing_ok=True)  # of the file that was there
    else:
        write(trained, base, unverified, args.quantization, args.merged)
        with kept_only_when_compared(unverified):
            if able:
                verification = verify(trained, base, unverified, target.name, held_out)
            else:
                verification = unable(unverified, target.name, args.quantization)
            show(verification.levels)
            if not verification.holds:
                write_json(failed, verification.report())
                also = f", and the folder {args.merged} is that model" if args.merged else ""
                print(f"The file stays {unverified}{also}.")
                raise contradiction(verification, failed, trained.path)
            os.replace(unverified, target)
        write_json(report_of(target), verification.report())
    write_modelfile(target.with_suffix(".Modelfile"), modelfile)
    remember_export(target)
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.0f} MB) and {target.with_suffix('.Modelfile').name}.")
    if args.ollama:
        into_ollama(trained, target, args.ollama, settings, verification)
        print(f"Next: ollama run {args.ollama}")
    else:
        summary = verification.summary if verification else "Not verified."
        command = f"chat --model {target}" if verification and able else f"verify {trained.path} {target}"
        print(f"{summary} Next: kosent {command}")
    return 0


@contextmanager
def kept_only_when_compared(file: Path) -> Iterator[None]:
    """Removes `file` when the block is interrupted or cannot compare; one that was found wrong stays, to be looked at."""
    try:
        yield
    except VerificationError:
        raise
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def into_ollama(run: RunDirectory, file: Path, name: str, settings: OllamaSettings, verification: Verification | None) -> None:
    """Creates the model and, where `file` was verified, compares what Ollama says before the model gets its name.

    Raises `VerificationError` when that is something else, `BackendError` when Ollama fails.
    """
    from kosent.export import ollama_upload
    from kosent.export.ollama_check import check_ollama_says

    with ollama_upload.created(file, name, settings) as there:
        if verification and not any(extras.missing(extra) for extra in NEEDS):
            level = check_ollama_says(there, file, run.system_message)
            write_json(report_of(file), verification.and_level(level).report())
            show([level])
            if level.holds is False:
                raise VerificationError(
                    f"Ollama does not say with {there} what {file} says; see {report_of(file)}.",
                    hint="ollama --version     (a newer Ollama may read the file better)",
                )
        reply = ollama_upload.ask(there)
    print(f"Ollama has it as {name}. Asked {ollama_upload.QUESTION!r}, it answers: {reply.strip()}")


def write_modelfile(file: Path, text: str) -> None:
    """Keeps one that says something else, which somebody may have changed by hand, as `FILE.old`."""
    if file.is_file() and file.read_text(encoding="utf-8", errors="replace") != text:
        old = file.with_name(f"{file.name}.old")
        file.replace(old)
        print(f"The Modelfile that was there is {old.name} now.")
    write_text(file, text)


def write(trained: RunDirectory, base: Path, target: Path, quantization: str, merged: Path | None = None) -> None:
    """Writes `target`, whole or not at all, after the folder `merged` where one is asked for. Raises `KosentError`."""
    from kosent.export.gguf_writer import Export
    from kosent.export.merged import merged_nbytes, write_merged
    from kosent.export.quantizer import SOURCE, quantize_file

    adapter = None if trained.weights else trained.adapter
    with Export(base, adapter, trained.template, trained.layout) as export, atomic_path(target) as temporary:
        check_memory(export, quantization)
        if merged:
            export.check()
            check_space(target, export.nbytes(SOURCE if quantization not in ONE_PASS else quantization) + merged_nbytes(export))
            with progress("merging MB", merged_nbytes(export) // 10**6) as advance:
                write_merged(export, merged, advance)
        if quantization in ONE_PASS:
            check_space(target, export.nbytes(quantization))
            with progress("exporting MB", export.nbytes(quantization) // 10**6) as advance:
                export.write(temporary, quantization, advance)
            return
        check_space(target, export.nbytes(SOURCE) + export.nbytes("q8_0"))  # no smaller type is larger than q8_0
        between = target.with_name(f".{target.name}.{SOURCE}.{os.getpid()}.tmp")  # swept like any temporary file of `target`
        try:
            with progress(f"{SOURCE} in MB", export.nbytes(SOURCE) // 10**6) as advance:
                export.write(between, SOURCE, advance)
            with progress(quantization, export.count) as advance:
                quantize_file(between, temporary, quantization, lambda done, total: advance(done, ""))
        finally:
            between.unlink(missing_ok=True)


def check_memory(export: Export, quantization: str) -> None:
    """Raises `KosentError` when less memory is free than reading and writing, or llama.cpp's quantizer, will take."""
    largest = max(math.prod(shape) for shape in export.shapes.values())
    needed = 400_000_000 + (0 if quantization in ONE_PASS else 5 * largest)  # a tensor in float32, and what becomes of it
    if (free := free_memory()) < needed:
        raise KosentError(
            f"Exporting to {quantization} needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free.",
            hint="close other programs" + ("" if quantization in ONE_PASS else ", or --quantization q8_0, which needs 0.4 GB"),
        )


def check_space(target: Path, needed: int) -> None:
    """Raises `KosentError` when the disk has less than `needed` bytes free."""
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KosentError(
            f"{target} needs {needed / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB free.",
            hint="make room, or name another disk with --output; --quantization q8_0 needs half of f16",
        )
