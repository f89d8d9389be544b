"""The base that a run's adapter is merged into: where it is, whether it is the one trained on, and its licence."""

from __future__ import annotations

from pathlib import Path

from kosent.errors import UsageError
from kosent.run_directory import RunDirectory


def licence_of(base: Path) -> str:
    """The text of the base's licence, as far as it lies beside it; else nothing."""
    files = [base / name for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE.md")]
    found = next((file for file in files if file.is_file()), None)
    return found.read_text(encoding="utf-8", errors="replace") if found else ""


def base_of(trained: RunDirectory, given: Path | None) -> tuple[RunDirectory, Path]:
    """The run and the folder whose tensors are merged, checked against the hashes of training. Raises `KosentError`."""
    from kosent import hf
    from kosent.export.architectures import base_config

    if trained.weights is not None:
        return trained, trained.weights
    if given:
        trained = rebased(trained, given)
        return trained, Path(trained.base)
    base_config(Path(hf.resolve_base(trained.base, weights=False)))  # whether it can be exported, before gigabytes are fetched
    base = Path(hf.resolve_base(trained.base))
    check_base(trained, base, hf.base_hashes(str(base)) if trained.facts["base"]["sha256"] else {})
    return trained, base


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
