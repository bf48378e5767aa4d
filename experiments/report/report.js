"use strict";
document.documentElement.classList.add("js");

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// Tables: a click on a column sorts by it, from the largest on; one more turns it round. Quoted lines stay by themselves.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      for (const body of table.tBodies) {
        const value = (row) => (column ? parseFloat(row.cells[column].dataset.value ?? "NaN") : row.cells[0].textContent);
        body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), sign)));
      }
    });
  });
}

function compare(a, b, sign) {
  if (typeof a === "string") return -sign * a.localeCompare(b, undefined, { numeric: true }); // names from A on first
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what is not there comes last
  return a === b ? 0 : sign * (a < b ? -1 : 1);
}

// Crops: menus pick the group that is shown; all crops share one view.
const groups = [...document.querySelectorAll(".group")];
if (groups.length) {
  const section = document.getElementById("crops");
  const keys = ["of", "image", "kernel"];
  const menus = keys.map(() => make("select"));
  const zoomed = make("output", { ariaLive: "polite" });
  const view = { x: 0, y: 0, z: 1 }; // offset in parts of a crop's side, and zoom

  const show = () => {
    const limit = (value) => Math.min(0, Math.max(1 - view.z, value));
    view.x = limit(view.x);
    view.y = limit(view.y);
    for (const name of ["x", "y", "z"]) section.style.setProperty("--" + name, view[name]);
    section.classList.toggle("zoomed", view.z > 1); // else a finger scrolls the page
    zoomed.value = view.z.toFixed(view.z < 10 ? 1 : 0) + "×";
  };
  const zoom = (factor, x = 0.5, y = 0.5) => {
    const z = Math.min(32, Math.max(1, view.z * factor));
    view.x = x - ((x - view.x) * z) / view.z; // the point at (x, y) stays where it is
    view.y = y - ((y - view.y) * z) / view.z;
    view.z = z;
    show();
  };
  const pan = (x, y) => {
    view.x += x;
    view.y += y;
    show();
  };
  const reset = () => {
    Object.assign(view, { x: 0, y: 0, z: 1 });
    show();
  };

  // Each menu lists what there is under the choices before it.
  const fill = (from) => {
    menus.forEach((menu, i) => {
      if (i < from) return;
      const left = groups.filter((group) => keys.slice(0, i).every((key, j) => group.dataset[key] === menus[j].value));
      const before = menu.value;
      const names = [...new Set(left.map((group) => group.dataset[keys[i]]))];
      menu.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
      if (names.includes(before)) menu.value = before;
    });
    for (const group of groups) group.hidden = !keys.every((key, j) => group.dataset[key] === menus[j].value);
  };
  menus.forEach((menu, i) => menu.addEventListener("change", () => fill(i + 1)));

  const button = (text, label, act) => {
    const made = make("button", { type: "button", ariaLabel: label }, text);
    made.addEventListener("click", act);
    return made;
  };
  const bar = make("div", { className: "bar" });
  ["set", "image", "kernel"].forEach((name, i) => bar.append(make("label", {}, name, menus[i])));
  bar.append(make("div", { className: "zoom" }, button("−", "zoom out", () => zoom(1 / 1.5)), zoomed,
    button("+", "zoom in", () => zoom(1.5)), button("reset", "reset zoom", reset)));
  const hint = make("p", { className: "note" },
    "The wheel zooms and dragging pans all crops in step; while T is held, all show the truth. Other keys, once the crops " +
    "are focused: + and − zoom, arrows pan, 0 resets.");
  section.querySelector("h2").after(bar, hint);
  fill(0);
  show();

  // While T is held, every crop gives way to the truth, so that the eye sees what changes.
  const pictures = (group) => [...group.querySelectorAll(".view img")].map((image) => [image, image.src]);
  let hidden = null;
  const back = () => {
    for (const [image, source] of hidden ?? []) image.src = source;
    hidden = null;
  };
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "t" || event.ctrlKey || event.metaKey || event.altKey) return;
    const group = groups.find((each) => !each.hidden);
    const truth = group.querySelector("[data-truth] img");
    if (!truth || hidden || event.target.closest("select")) return;
    hidden = pictures(group);
    for (const [image] of hidden) image.src = truth.src;
  });
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "t" && back());
  window.addEventListener("blur", back);

  for (const group of groups) {
    const grid = group.querySelector(".grid");
    grid.tabIndex = 0;
    grid.setAttribute("role", "group");
    grid.setAttribute("aria-label", "crops of " + group.querySelector("h3").textContent);
    const at = (event, element) => {
      const box = element.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    grid.addEventListener("wheel", (event) => {
      const element = event.target.closest(".view");
      if (!element || event.ctrlKey || (view.z === 1 && event.deltaY > 0)) return; // the page is scrolled
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
      zoom(Math.exp(-event.deltaY * lines * 0.002), ...at(event, element));
    }, { passive: false });
    grid.addEventListener("keydown", (event) => {
      const step = 0.1;
      const acts = {
        "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": reset,
        ArrowLeft: () => pan(step, 0), ArrowRight: () => pan(-step, 0), ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !acts[event.key]) return;
      if (event.key.startsWith("Arrow") && view.z === 1) return;
      event.preventDefault();
      acts[event.key]();
    });
    // One finger or the mouse pans, two fingers zoom.
    const fingers = new Map();
    const middle = () => {
      const points = [...fingers.values()];
      const mean = [0, 1].map((i) => points.reduce((sum, point) => sum + point[i], 0) / points.length);
      return [mean, points.length > 1 ? Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]) : 1];
    };
    grid.addEventListener("pointerdown", (event) => {
      const element = event.target.closest(".view");
      if (!element || event.button) return;
      element.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, at(event, element));
    });
    grid.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const [before, span] = middle();
      fingers.set(event.pointerId, at(event, event.target.closest(".view")));
      const [after, wider] = middle();
      pan(after[0] - before[0], after[1] - before[1]);
      if (fingers.size > 1 && span) zoom(wider / span, ...after);
    });
    for (const end of ["pointerup", "pointercancel"]) grid.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
}
