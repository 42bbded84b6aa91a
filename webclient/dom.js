// Small helpers for building the page. Text only ever enters it as text.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

/** An element with a class name and children; strings become text. */
export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** A line drawing on a grid of 24 by 24. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Set text only where it differs: an unchanged node is not announced or painted again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A person's initial on a colour that their name decides. */
export function setAvatar(node, name, lobby = false) {
  setText(node, lobby ? "#" : ([...name][0] ?? "?").toUpperCase());
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  node.dataset.hue = lobby ? "lobby" : hash % 8;
}

/** Empty what `reconcile` has filled. */
export function clear(parent) {
  parent.replaceChildren();
  parent.nodesByKey = undefined;
}

/**
 * Make the children of `parent` show `items` in order, keeping the nodes of those that were there before.
 * `make(item)` builds a node, `update(node, item)` brings it up to date.
 */
export function reconcile(parent, items, keyOf, make, update) {
  const before = parent.nodesByKey ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    after.set(key, before.get(key) ?? make(item));
  }
  for (const [key, node] of before) if (!after.has(key)) node.remove();
  let next = parent.firstElementChild;
  for (const item of items) {
    const node = after.get(keyOf(item));
    update(node, item);
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  parent.nodesByKey = after;
}
