"""The files of the OpenAI Batch API: requests in, results out, on disk and in any order.

    batches/TASK/requests/0000-of-0001-0001.jsonl   a file to hand in; complete once it has this name
    batches/TASK/results/*.jsonl                    output and error files as they come back, under any name
    batches/TASK/told.txt                           failures that have ended an item, and are asked anew if at all

A request's id is what was asked, how many replies to that were bought before, and the attempt; so a result belongs to
one request for ever, whichever file it comes in and however often.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)

MAX_REQUESTS = 50_000
MAX_BYTES = 200 * 1000 * 1000
_URL = "/v1/chat/completions"
_Place = tuple[Path, int]  # file, position of the line


class BatchFiles:
    """The files of one task.

    Args:
        directory: ``batches/TASK``.
        share: prefix of this process's files.
        max_requests, max_bytes: of one file of requests.

    Raises:
        ValueError: a line is no result.
    """

    def __init__(
        self, directory: Path, share: str, *, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._requests, self.results = directory / "requests", directory / "results"
        self._told_path = directory / "told.txt"
        for folder in (self._requests, self.results):
            folder.mkdir(parents=True, exist_ok=True)
        self._share, self._max_requests, self._max_bytes = share, max_requests, max_bytes
        for half in self._requests.glob(f"{share}-*.part"):
            half.unlink()  # a killed run's; nobody was handed it
        self._asked = {line["custom_id"]: path for path in self.files() for line, _ in _lines(path)}
        self._found: dict[str, _Place] = {}
        self._told = set(self._told_path.read_text().split()) if self._told_path.exists() else set()
        self._writing: tuple[Path, TextIO] | None = None
        self._num_requests = self._num_bytes = 0
        self._read_results()

    def files(self) -> list[Path]:
        """All complete files of requests."""
        return sorted(self._requests.glob("*.jsonl"))

    def waiting(self) -> dict[Path, list[str]]:
        """The requests without a result, by file; where several processes share the work, those of this one."""
        waiting: dict[Path, list[str]] = {}
        is_alone = self._share.endswith("-of-0001")
        for name, path in self._asked.items():
            if name not in self._found and (is_alone or path.name.startswith(f"{self._share}-")):
                waiting.setdefault(path, []).append(name)
        return waiting

    def result(self, name: str) -> Mapping[str, Any] | None:
        """The result of a request, by its id; None while there is none."""
        if name not in self._found:
            return None
        path, position = self._found[name]
        with path.open("rb") as file:
            file.seek(position)
            return json.loads(file.readline())

    def ask(self, name: str, body: Mapping[str, Any]) -> None:
        """Adds a request to the round, unless it has been handed in already.

        Args:
            name: its id.
            body: of the chat request.

        Raises:
            ValueError: it is longer than a file may be.
        """
        if name in self._asked:
            return
        line = json.dumps({"custom_id": name, "method": "POST", "url": _URL, "body": body}) + "\n"
        if len(line) > self._max_bytes:
            raise ValueError(f"a request of {len(line):,} bytes: a batch file holds {self._max_bytes:,}. Cut passages.")
        if self._num_requests >= self._max_requests or self._num_bytes + len(line) > self._max_bytes:
            self.seal()
        if self._writing is None:
            number = 1 + max((int(path.stem[-6:]) for path in self.files()), default=0)
            path = self._requests / f"{self._share}-{number:06d}.jsonl"
            self._writing = path, path.with_suffix(".part").open("w", encoding="ascii")
        path, file = self._writing
        file.write(line)
        self._asked[name] = path
        self._num_requests, self._num_bytes = self._num_requests + 1, self._num_bytes + len(line)

    def seal(self) -> None:
        """Completes the file that is being written: from now on it may be handed in."""
        if self._writing is not None:
            path, file = self._writing
            file.close()
            path.with_suffix(".part").replace(path)
        self._writing, self._num_requests, self._num_bytes = None, 0, 0

    def close(self) -> None:
        """Leaves an incomplete file behind, which the next start writes anew."""
        if self._writing is not None:
            self._writing[1].close()

    def is_told(self, name: str) -> bool:
        """Whether this failed request has ended an item before."""
        return name in self._told

    def tell(self, names: list[str]) -> None:
        """Notes requests whose failure ends an item."""
        with self._told_path.open("a") as file:
            file.writelines(f"{name}\n" for name in names)
        self._told.update(names)

    def failed(self) -> list[str]:
        """The requests whose result is no reply."""
        return [name for name in self._found if _is_failure(self.result(name) or {})]

    def _read_results(self) -> None:
        num_strange = 0
        for path in sorted(self.results.glob("*.jsonl")):
            for line, position in _lines(path, may_be_cut=True):
                if line["custom_id"] in self._asked:
                    self._found.setdefault(line["custom_id"], (path, position))
                else:
                    num_strange += 1
        if num_strange:
            log.warning("%s: %d results belong to no request of this run", self.results, num_strange)


def _is_failure(result: Mapping[str, Any]) -> bool:
    return bool(result.get("error")) or (result.get("response") or {}).get("status_code") != 200


def _lines(path: Path, *, may_be_cut: bool = False) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of a file with their positions; a last line that is cut short is no result."""
    position = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text) if text.strip() else None
                if line is not None and not (isinstance(line, dict) and isinstance(line.get("custom_id"), str)):
                    raise ValueError("no object with a custom_id")
            except (ValueError, RecursionError) as error:
                if may_be_cut and not text.endswith(b"\n"):
                    log.warning("%s, line %d: cut short, its request counts as unanswered", path, number)
                    return
                raise ValueError(f"{path}, line {number}: {error}. Fetch the file again, or move it away.") from None
            if line is not None:
                yield line, position
            position += len(text)
