"""What is left out of Ego-Exo4D, and what is said of a value that nothing has. Pure: any thread may enter."""

from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
from difflib import get_close_matches

from vfs.errors import OptionError


@dataclass(frozen=True)
class Filters:
    """The values that a person wants; an empty set is no filter."""

    uids: frozenset[str]
    benchmarks: frozenset[str]
    splits: frozenset[str]
    views: frozenset[str]
    universities: frozenset[str]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(astuple(self))


def rejects(wanted: frozenset[str], tags: Collection[str] | None) -> bool:
    """Whether a filter leaves out what has these tags: it does not where nothing is known of them."""
    return bool(wanted) and tags is not None and wanted.isdisjoint(tags)


def refuse_unknown(option: str, given: Iterable[str], there: Collection[str]) -> None:
    """Raises OptionError for a value that nothing has, naming those there are, or of uids the nearest."""
    for value in sorted(set(given) - set(there)):
        if not there:
            hint = "there are none at all"
        elif option == "uids":
            hint = f"the nearest of {len(there)} is {get_close_matches(value, there, 1, 0)[0]}"
        else:
            hint = f"there are {', '.join(sorted(there))}"
        raise OptionError(f"{option}={value}: nothing here has this; {hint}")
