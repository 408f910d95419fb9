"""Recognising a row's layout by its columns, and the row as arguments of ``build_example``."""

import difflib
from collections.abc import Set
from typing import Any

from qwen3emb_train.data.layouts import LAYOUTS, OWN_LABELS, Layout, Row
from qwen3emb_train.data.records import TRAINING_FIELDS
from qwen3emb_train.data.validation import InvalidExampleError


class UnknownLayoutError(InvalidExampleError):
    """The columns of a row match no known layout."""


class RowReader:
    """Turns the rows of one file into arguments of ``build_example``; keeps the layout it has recognised."""

    def __init__(self, ignored_columns: list[str]) -> None:
        self._ignored_columns = frozenset(ignored_columns)
        self._layout: Layout | None = None
        self._columns: Set[str] = frozenset()  # of the row before
        self._passed: set[tuple[str, frozenset[str]]] = set()  # columns that a layout has accepted

    def read(self, row: Row) -> dict[str, Any]:
        """The arguments of a row. Null counts as absent, as in Parquet rows that lack a column.

        Raises:
            UnknownLayoutError: neither this row nor one before it is of a known layout.
            InvalidExampleError: for a column or value that does not fit the layout.
        """
        if self._ignored_columns:
            row = {name: value for name, value in row.items() if name not in self._ignored_columns}
        layout = self._layout
        if layout is None or row.keys() != self._columns:
            layout = self._layout = recognise_layout(row.keys(), layout)
            self._columns = frozenset(row)
        if None in row.values():
            row = {name: value for name, value in row.items() if value is not None}
        passed = (layout.name, frozenset(row))
        if passed not in self._passed:
            layout.check_columns(row.keys())
            self._passed.add(passed)
        fields = layout.fields(row)
        if layout.is_own:
            return fields
        return {name: row[name] for name in OWN_LABELS if name in row} | fields


def recognise_layout(columns: Set[str], current: Layout | None = None) -> Layout:
    """The layout of these columns: ``current`` if it fits or nothing does, else the first that fits.

    So an incomplete row keeps the layout of the rows before it, and what it lacks is reported by name.

    Raises:
        UnknownLayoutError: no layout fits, and there is no ``current`` one.
    """
    if current is not None and current.matches(columns):
        return current
    for layout in LAYOUTS:
        if layout.matches(columns):
            return layout
    if current is not None:
        return current
    known = TRAINING_FIELDS.union(*(layout.listed for layout in LAYOUTS))
    nearest = {column: difflib.get_close_matches(column, known, 1) for column in sorted(columns - known)}
    hints = "".join(f"{column!r} looks like {found[0]!r}. " for column, found in nearest.items() if found)
    understood = "; ".join(f"{layout.name} ({layout.columns})" for layout in LAYOUTS)
    reason = f"the columns found are of no known layout: {', '.join(map(repr, sorted(columns))) or 'none'}"
    raise UnknownLayoutError("columns", reason, f"{hints}Rename them to a layout that is understood: {understood}.")
