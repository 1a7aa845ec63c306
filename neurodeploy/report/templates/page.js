"use strict";
// Tabs, colours of the map, and details of a core. Without this script the page shows all parts one below the other.
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const sections = [...document.querySelectorAll("section[data-tab]")];
  const tablist = document.getElementById("tabs");
  const make = (tag, properties, text = "") => Object.assign(document.createElement(tag), properties, { textContent: text });

  // Tabs with arrow keys, as in the ARIA practices; the address remembers the one that the reader selects.
  const tabs = sections.map((section) => {
    const tab = make("button", { type: "button", id: `tab-${section.id}` }, section.dataset.tab);
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", section.id);
    section.setAttribute("role", "tabpanel");
    section.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => select(tabs.indexOf(tab)));
    tablist.append(tab);
    return tab;
  });
  document.body.classList.add("tabbed");

  // On paper: all parts, or, by the button, the verdict and the table of layers.
  const printed = document.getElementById("print-one");
  printed.hidden = false;
  printed.addEventListener("click", () => { document.body.classList.add("one-page"); window.print(); });
  window.addEventListener("afterprint", () => document.body.classList.remove("one-page"));

  function show(chosen) {
    sections.forEach((section, i) => {
      section.hidden = i !== chosen;
      tabs[i].setAttribute("aria-selected", String(i === chosen));
      tabs[i].tabIndex = i === chosen ? 0 : -1;
    });
    hideDetails();
  }
  function select(chosen) {  // never while the page loads: a browser scrolls to the hash that the address has then
    show(chosen);
    history.replaceState(null, "", `#${sections[chosen].id}`);
  }
  tablist.addEventListener("keydown", (event) => {
    const now = tabs.indexOf(document.activeElement);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const i = (next + tabs.length) % tabs.length;
    select(i);
    tabs[i].focus();
  });

  // The map: cells coloured by layer, as they were written, or by their share of a resource.
  const cells = [...document.querySelectorAll(".cell")];
  const written = cells.map((cell) => [...cell.querySelectorAll("rect")].map((rect) => rect.getAttribute("fill")));
  const shade = (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (facts.scale.length - 1);
    const low = Math.min(Math.floor(at), facts.scale.length - 2);
    return `color-mix(in srgb, ${facts.scale[low + 1]} ${((at - low) * 100).toFixed(1)}%, ${facts.scale[low]})`;
  };
  function colour(column) {
    cells.forEach((cell, i) => [...cell.querySelectorAll("rect")].forEach((rect, k) => {
      const share = facts.cells[i].share;
      if (share === null) return;
      rect.style.fill = column < 0 ? written[i][k] : shade(share[column]);
      rect.style.stroke = column < 0 ? "" : "none";
    }));
    document.getElementById("legend").hidden = column >= 0;
    document.getElementById("scale").hidden = column < 0;
  }
  document.querySelector("#scale div").style.background = `linear-gradient(to right, ${facts.scale.join(", ")})`;
  const choices = document.getElementById("colouring");
  ["layer", ...facts.resources].forEach((name, i) => {
    const label = make("label", {}, "");
    const input = make("input", { type: "radio", name: "colouring", value: name, checked: i === 0 });
    input.addEventListener("change", () => colour(i - 1));
    label.append(input, name.replaceAll("_", " "));
    choices.append(label);
  });
  choices.hidden = false;

  // Details of a cell, next to it, on hover and on focus.
  const details = document.getElementById("details");
  function showDetails(cell) {
    const i = cells.indexOf(cell);
    details.replaceChildren(make("strong", {}, cell.dataset.name), ...facts.cells[i].lines.map((line) => make("span", {}, line)));
    details.hidden = false;
    const box = cell.getBoundingClientRect();
    const left = Math.min(box.right + 8, document.documentElement.clientWidth - details.offsetWidth - 8);
    const below = box.bottom + 8 + details.offsetHeight < document.documentElement.clientHeight;
    details.style.left = `${Math.max(8, left)}px`;
    details.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - details.offsetHeight - 8)}px`;
  }
  function hideDetails() { details.hidden = true; }
  const map = document.getElementById("map");
  const point = (event) => { const cell = event.target.closest(".cell"); if (cell) showDetails(cell); else hideDetails(); };
  map.addEventListener("pointerover", point);
  map.addEventListener("pointermove", (event) => { if (details.hidden) point(event); });
  map.addEventListener("pointerleave", hideDetails);
  map.addEventListener("focusin", (event) => { const cell = event.target.closest(".cell"); if (cell) showDetails(cell); });
  map.addEventListener("focusout", hideDetails);
  document.addEventListener("scroll", () => {  // focus itself scrolls a cell into view: its details move with it
    const cell = document.activeElement;
    if (!details.hidden && cells.includes(cell) && details.firstChild.textContent === cell.dataset.name) showDetails(cell); else hideDetails();
  }, { passive: true });
  const used = cells.findIndex((_, i) => facts.cells[i].share !== null);
  if (used >= 0) cells[used].tabIndex = 0;
  const centre = (cell) => { const at = cell.transform.baseVal.getItem(0).matrix; return [at.e, at.f]; };
  map.addEventListener("keydown", (event) => {
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") hideDetails();
    const here = event.target.closest(".cell");
    if (!direction || !here) return;
    event.preventDefault();
    const [x, y] = centre(here);
    let best = null, nearest = Infinity;
    for (const cell of cells) {
      const [dx, dy] = [centre(cell)[0] - x, centre(cell)[1] - y];
      const along = dx * direction[0] + dy * direction[1], aside = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
      if (along > 0 && along + 4 * aside < nearest) { nearest = along + 4 * aside; best = cell; }
    }
    if (!best) return;
    here.tabIndex = -1;
    best.tabIndex = 0;
    best.focus();
  });

  const asked = sections.findIndex((section) => `#${section.id}` === location.hash);
  show(asked < 0 ? 0 : asked);
})();
