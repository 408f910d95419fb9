"use strict";
for (const head of document.querySelectorAll("table.sortable thead th")) {
  head.addEventListener("click", () => {
    const rows = [...head.closest("table").tBodies[0].rows];
    const falling = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling === 1 ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const compare = (a, b) => (typeof a === "number") !== (typeof b === "number")
      ? (typeof a === "number" ? -1 : 1)
      : falling * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    rows.sort((a, b) => compare(key(a), key(b)));
    for (const row of rows) row.parentNode.append(row);
  });
}
