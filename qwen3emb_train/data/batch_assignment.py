"""Assigns the rows of a planning block to batches so that no text occurs twice in a batch.

Rows whose texts occur only once in the block may go to any batch. The others are placed first, the most frequent text
first, each row in the emptiest batch that has none of its texts yet: where a row has one text this is the greedy
construction of a 0-1 matrix with given row and column sums (Gale and Ryser), so repeats remain only where a text has
more rows than the block has batches. With several texts per row it is a heuristic; a row without a free batch may
displace a row that fits elsewhere. Rows that cannot be placed fill the gaps and are counted: batches are always full,
and the losses mask equal texts anyway.
"""

import numpy as np
from jaxtyping import Int

_MAX_TRIES = 256  # to find a row that can move: nearly always one of the first few can


def assign_batches(
    row_idx: Int[np.ndarray, " texts"],
    texts: Int[np.ndarray, " texts"],
    num_batches: int,
    batch_size: int,
    *,
    stay_near: bool,
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " batches"]]:
    """Assigns ``num_batches * batch_size`` rows.

    Args:
        row_idx: the row of each text, 0 .. rows - 1; a row may have none.
        texts: hash of each text that must not repeat.
        num_batches: of the block.
        batch_size: rows of each.
        stay_near: place a row in the batch nearest to its position (row // batch_size) instead of the emptiest, for
            rows that are sorted.

    Returns:
        The batch of each row, and how many rows of each batch repeat a text.
    """
    num_rows = num_batches * batch_size
    batch_of_row = np.full(num_rows, -1, dtype=np.int64)
    fill = np.zeros(num_batches, dtype=np.int64)
    repeated = np.zeros(num_batches, dtype=np.int64)
    unplaced: list[int] = []

    rows, texts_of, num_shared = _shared_texts(row_idx, texts)
    own_of = dict(zip(rows.tolist(), texts_of, strict=True))
    taken = np.zeros((num_shared, num_batches), dtype=bool)

    def put(row: int, batch: int) -> None:
        taken[own_of[row], batch] = True
        batch_of_row[row] = batch
        fill[batch] += 1

    def make_room(row: int) -> bool:
        """Moves a row out of a full batch that could take this one."""
        tries = 0
        for batch in np.flatnonzero(~taken[own_of[row]].any(axis=0)).tolist():
            for other in np.flatnonzero(batch_of_row == batch)[: _MAX_TRIES - tries].tolist():
                tries += 1
                second = ~taken[own_of[other]].any(axis=0) & (fill < batch_size)
                if second.any():
                    taken[own_of[other], batch] = False
                    fill[batch] -= 1
                    put(other, int(second.argmax()))
                    put(row, batch)
                    return True
        return False

    for row in rows.tolist():
        free = ~taken[own_of[row]].any(axis=0) & (fill < batch_size)
        if free.any():
            cost = fill + (np.abs(np.arange(num_batches) - row // batch_size) * num_rows if stay_near else 0)
            put(row, int(np.where(free, cost, np.iinfo(np.int64).max).argmin()))
        elif not make_room(row):
            unplaced.append(row)
    for row in unplaced:
        batch = int(fill.argmin())
        batch_of_row[row] = batch
        fill[batch] += 1
        repeated[batch] += 1
    batch_of_row[batch_of_row < 0] = np.repeat(np.arange(num_batches), batch_size - fill)
    return batch_of_row, repeated


def balanced_owners(tokens: Int[np.ndarray, " rows"], num_ranks: int) -> Int[np.ndarray, " rows"]:
    """The rank of each row of a batch: equally many rows on every rank, and nearly equally many tokens.

    Rows are dealt from the longest to the shortest, ``num_ranks`` at a time, the longest of them to the rank with the
    fewest tokens so far (longest processing time first, Graham 1969, with equal counts). A step waits for its slowest
    rank, and rows in random order leave the ranks idle for a tenth of it.

    Args:
        tokens: of each row; ``num_ranks`` divides their number.
        num_ranks: to deal to.
    """
    owners = np.empty(len(tokens), dtype=np.int64)
    load = np.zeros(num_ranks, dtype=np.int64)
    for round_ in np.argsort(-tokens, kind="stable").reshape(-1, num_ranks):
        ranks = np.argsort(load, kind="stable")
        owners[round_] = ranks
        load[ranks] += tokens[round_]
    return owners


def _shared_texts(
    row_idx: Int[np.ndarray, " texts"], texts: Int[np.ndarray, " texts"]
) -> tuple[Int[np.ndarray, " rows"], list[np.ndarray], int]:
    """Rows with a text that another row has too, in the order of assignment, and those texts numbered from 0."""
    _, first, number, count = np.unique(texts, return_index=True, return_inverse=True, return_counts=True)
    is_shared = count[number] > 1
    first_row = row_idx[first]  # texts of equal count are placed in order of occurrence, not of their hashes
    row_idx, number = row_idx[is_shared], number[is_shared]
    by_row = np.lexsort((first_row[number], -count[number], row_idx))  # a row's most frequent text first
    row_idx, number = row_idx[by_row], number[by_row]
    rows, starts = np.unique(row_idx, return_index=True)
    _, dense = np.unique(number, return_inverse=True)
    main = number[starts] if len(starts) else number
    order = np.lexsort((rows, first_row[main], -count[main]))
    groups = np.split(dense, starts[1:]) if len(starts) else []
    return rows[order], [groups[i] for i in order], int(dense.max()) + 1 if len(dense) else 0
