"""How every program makes its output directory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen3emb_train.lineage.contents import is_up_to_date, with_contents
from qwen3emb_train.lineage.digests import digest
from qwen3emb_train.lineage.locks import DirectoryLock
from qwen3emb_train.lineage.ownership import require_apart, require_replaceable
from qwen3emb_train.lineage.publishing import Place
from qwen3emb_train.lineage.records import RunRecord, new_record, write_record


@dataclass
class Output:
    """A directory that is being made.

    Attributes:
        directory: to fill.
        program, settings, inputs, metrics: for its record.
        digests: SHA-256 of files in it, by name, where it was taken while they were written; the others are read again.
        digest_of: gives an input's digest.
    """

    directory: Path
    program: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    metrics: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    digest_of: Callable[[Path], str] = digest

    @cached_property
    def record(self) -> RunRecord:
        """With the inputs' digests at the first access: at the latest when everything is written."""
        return new_record(self.program, self.settings, self.inputs, self.digest_of)


def produce(
    program: str,
    output: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    write: Callable[[Output], Mapping[str, Any]],
    digest_of: Callable[[Path], str] = digest,
) -> bool:
    """Makes an output directory whole, with its ``run.json``, unless it is there already.

    Args:
        program: its name; what another program wrote is never replaced.
        output: the directory. It may be empty, a link, or a mount point.
        settings: everything that decides the result, besides the inputs.
        inputs: what is read, name -> file or directory.
        write: fills ``Output.directory`` and returns the metrics for the record.
        digest_of: gives an input's digest; ``digest_cached`` where reading all of it takes long.

    Returns:
        Whether it was made now; False: it was up to date, which is printed.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: the output is, holds or lies in an input, holds files that no run of ``program`` wrote or that were
            changed since, or another process is writing it. Nothing is changed then.
    """
    if is_up_to_date(output, program, settings, inputs, digest_of):
        print(f"{output}: up to date")
        return False
    with replacing(program, output, settings, inputs) as made:
        made.digest_of = digest_of
        made.metrics.update(write(made))
    return True


@contextmanager
def replacing(program: str, output: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Iterator[Output]:
    """``produce`` without the check whether the result is up to date: yields the output to fill, then publishes it.

    Args:
        program, output, settings, inputs: as in ``produce``.
    """
    require_apart(output, inputs)
    place = Place.of(output)
    if not place.is_interrupted:
        require_replaceable(place, program)  # before the lock: nothing is written into a directory that is refused
    with DirectoryLock(place.lock, output):
        place.recover()
        require_replaceable(place, program)
        with place.fill() as directory:
            made = Output(directory, program, settings, inputs)
            yield made
            write_record(
                directory, with_contents(replace(made.record, metrics=made.metrics), directory, known=made.digests)
            )
        place.publish()
