"""The site file: what a cluster wants to hear, in one small file of bash that a user copies from slurm/site.example.sh and edits."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from train import slurm
from train.entry import ROOT

# What a submission decides itself; a user's own would break it.
OURS = {
    "--array": "-a", "--dependency": "-d", "--output": "-o", "--error": "-e", "--job-name": "-J", "--signal": "", "--parsable": "", "--wrap": "", "--chdir": "-D",
    "--wait": "-W", "--test-only": "", "--open-mode": "", "--no-requeue": "", "--hold": "-H", "--kill-on-invalid-dep": "",
}  # fmt: skip
# Slurm sends the warning up to a minute early.
EARLY = 60


@dataclass(frozen=True)
class Site:
    """The options that sbatch gets, and how many seconds before the time limit a task is warned."""

    path: Path
    options: tuple[str, ...]
    warn_seconds: int


def site_path() -> Path:
    """PALIMPSEST_SITE, or slurm/site.sh, or where there is none the example."""
    named = os.environ.get("PALIMPSEST_SITE")
    if named:
        return Path(named).absolute()
    own = ROOT / "slurm" / "site.sh"
    return own if own.exists() else ROOT / "slurm" / "site.example.sh"


def read_site(more: Sequence[str]) -> Site:
    """Reads the site file; `more` are the user's options for sbatch, after the file's.

    InputError where the file cannot be read, an option is one that a submission sets itself, or the time limit leaves no time for the warning.
    """
    path = site_path()
    if not path.exists():
        raise InputError(f"{path}: there is no such site file (PALIMPSEST_SITE names it)")
    script = 'set -eu; cd "$2"; source "$1"; printf "%s\\0" "$WARN_SECONDS" "$MAX_RESTARTS" ${SBATCH_OPTIONS[@]+"${SBATCH_OPTIONS[@]}"}'
    answer = subprocess.run(["bash", "-c", script, "bash", str(path), str(ROOT)], capture_output=True, text=True, check=False)
    fields = answer.stdout.split("\0")[:-1]
    if answer.returncode != 0 or len(fields) < 2 or not all(value.isdigit() for value in fields[:2]):
        said = answer.stderr.strip().splitlines()
        raise InputError(
            f"{path}: {said[-1] if said else 'is no site file'}; it must set SBATCH_OPTIONS=(...), WARN_SECONDS and MAX_RESTARTS (whole numbers) as slurm/site.example.sh does"
        )
    options = (*fields[2:], *more)
    for option in options:
        name = option.partition("=")[0]
        for long, short in OURS.items():
            if name == long or (short and option.startswith(short) and not option.startswith("--")):
                raise InputError(
                    f"{option}: set by the submission itself; options such as --partition, --account, --time, --mem, --gres are yours"
                )
    site = Site(path, options, int(fields[0]))
    check_time(site)
    return site


def check_time(site: Site) -> None:
    """InputError where the warning before the time limit would come at once or not at all."""
    limit = option_value(site.options, "--time", "-t")
    if limit is None:
        return
    try:
        seconds = slurm.seconds(limit)
    except ValueError as error:
        raise InputError(f"--time: {error}") from None
    if seconds is not None and site.warn_seconds >= seconds - EARLY:
        raise InputError(
            f"--time={limit} leaves nothing to work in: a task is warned WARN_SECONDS={site.warn_seconds} s ({site.path}) before the end, "
            f"up to {EARLY} s early; allowed: at least {(site.warn_seconds + EARLY) // 60 + 1} minutes"
        )


def option_value(options: Sequence[str], long: str, short: str) -> str | None:
    """The value of an option of sbatch, the last one given."""
    value = None
    for option, following in zip(options, (*options[1:], "")):
        if option.startswith(f"{long}="):
            value = option.partition("=")[2]
        elif option in (long, short):
            value = following
        elif option.startswith(short) and not option.startswith("--"):
            value = option[len(short) :]
    return value
