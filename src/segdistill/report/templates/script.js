"use strict";
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up === 1 ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return up * (isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    };
    body.append(...[...body.rows].sort(order));
  }));
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
});
const dialog = document.querySelector("dialog");
if (dialog) {
  const show = row => {
    const source = document.getElementById(row.dataset.show);
    dialog.querySelector("h3").textContent = source.dataset.title;
    const copies = [...source.children].map(child => child.cloneNode(true));
    dialog.querySelector(".panels").replaceChildren(...copies);
    dialog.showModal();
  };
  document.querySelectorAll("tr[data-show]").forEach(row => {
    row.addEventListener("click", () => show(row));
    row.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(row); }
    });
  });
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
}
