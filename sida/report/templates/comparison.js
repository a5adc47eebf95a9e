"use strict";
// The table sorts by the heading that is chosen; rows without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    const number = "number" in head.dataset;
    const value = row => {
      const cell = row.cells[column];
      return number ? ("value" in cell.dataset ? Number(cell.dataset.value) : null) : cell.textContent.trim() || null;
    };
    const order = (a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return down * (number ? x - y : x.localeCompare(y, "en", {numeric: true}));
    };
    body.append(...[...body.rows].sort(order));
  }));
}
// Two grids on top of each other; the border between them moves by the range input or the pointer.
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input"), stack = slider.querySelector(".stack");
  const sources = [...slider.nextElementSibling.querySelectorAll("img")].map(image => image.src);
  const show = () => stack.style.setProperty("--at", range.value + "%");
  range.addEventListener("input", show);
  for (const select of slider.querySelectorAll("select"))
    select.addEventListener("change", () => { stack.querySelector("." + select.dataset.side).src = sources[select.value]; });
  const point = event => {
    if (!event.buttons) return;
    const box = stack.getBoundingClientRect();
    range.value = 100 * (event.clientX - box.left) / box.width;
    show();
  };
  stack.addEventListener("pointerdown", point);
  stack.addEventListener("pointermove", point);
  stack.addEventListener("dragstart", event => event.preventDefault());
  show();
}
