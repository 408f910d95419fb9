"""Compressed files (gzip, zstd, bzip2, xz), opened as streams."""

import bz2
import gzip
import lzma
import zlib
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from data_synth.formats.extract import UnreadableError

COMPRESSED_SUFFIXES = (".bz2", ".gz", ".xz", ".zst")
DAMAGES = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged compressed file raises."""


def open_plain(path: Path) -> BufferedIOBase:
    """The uncompressed bytes of a file, by its last suffix."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    return _zstd(path) if suffix == ".zst" else path.open("rb")


def inner_suffix(path: Path) -> str:
    """What kind of file it is: ".txt" of ``page.txt.gz``."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path
    return inner.suffix.lower()


def read_compressed(path: Path, max_bytes: int) -> bytes:
    """All of a compressed file.

    Raises:
        UnreadableError: it is damaged, or longer than ``max_bytes``.
    """
    try:
        with open_plain(path) as file:
            raw = file.read(max_bytes + 1)
    except DAMAGES as error:
        raise UnreadableError("damaged", f"the compressed file ends or breaks: {error}"[:300]) from None
    if len(raw) > max_bytes:
        raise UnreadableError("file_too_large", f"unpacked, it has more than max_file_bytes={max_bytes} bytes.")
    return raw


def _zstd(path: Path) -> BufferedReader:
    import pyarrow as pa  # reads zstd without another package

    return BufferedReader(pa.input_stream(str(path), compression="zstd"))
