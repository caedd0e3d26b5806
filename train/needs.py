"""What entries need before they start: data sets that are prepared, prerequisites that are finished. Loads without torch."""

from collections.abc import Collection, Sequence

from errors import InputError
from train.frozen import is_frozen
from train.lists import Entry, label, ranges
from train.run import finished, state


def require_data(todo: Sequence[Entry]) -> None:
    """InputError that names every data set that is missing with the entries that need it, and the entries that need none of those."""
    if not todo:
        return
    from data import datasets

    problems = {}
    for name in dict.fromkeys(entry.experiment.dataset for entry in todo):
        try:
            datasets.require(name)
        except InputError as error:
            own = [entry.index for entry in todo if entry.index is not None and entry.experiment.dataset == name]
            problems[name] = f"{error}" + (f" (needed by {'entry' if len(own) == 1 else 'entries'} {ranges(own)})" if own else "")
    if problems:
        rest = [entry.index for entry in todo if entry.index is not None and entry.experiment.dataset not in problems]
        raise InputError("; ".join(problems.values()) + (f"; entries that need none of this: --index {ranges(rest)}" if rest else ""))


def refuse_missing(
    config: str, chosen: Sequence[Entry], rest: Sequence[str], queued: Collection[str] = (), program: str = "python -m train"
) -> None:
    """InputError with the command that makes it, where a prerequisite is neither finished nor chosen nor `queued`."""
    present = {entry.experiment.hash for entry in chosen}.union(queued)
    for entry in chosen:
        missing = [part for part in entry.experiment.requires() if part.hash not in present and not finished(part)]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            command = " ".join([program, config, f"--index {entry.index} --with-prerequisites", *rest])
            mend = "submit the list again" if is_frozen(config) else f"make it with: {command}"
            problem = f"needs {missing[0].name}{others}, which is {state(missing[0]).name}; {mend}"
            raise InputError(f"{config}: {label(entry)} {problem}")
