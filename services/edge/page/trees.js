"use strict";
// Drawings of what the model was asked and what was right. Steps are {tokens, tree}: tokens of the answer with
// their sources, and the guesses that they came from.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// A token's text in one line, blanks visible.
function shown(text) {
  const line = text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "·");
  return line.length > 18 ? line.slice(0, 17) + "…" : line || "∅";
}

// A column a step, a cell a token: the model's own at the bottom, what was guessed on top of it.
function drawSteps(box, steps, chosen) {
  const width = 7, gap = 2, cell = 9, most = Math.max(4, ...steps.map((step) => step.tokens.length));
  const height = most * (cell + 1) + 6;
  const picture = svg("svg", {width: steps.length * (width + gap), height, "aria-hidden": "true"});
  steps.forEach((step, index) => {
    const x = index * (width + gap);
    [...step.tokens].reverse().forEach((token, level) => picture.append(svg("rect", {
      x, y: height - 6 - (level + 1) * (cell + 1), width, height: cell, rx: 1.5, class: "cell", "data-source": token.source})));
    if (index === chosen) picture.append(svg("rect", {x, y: height - 4, width, height: 3, rx: 1.5, class: "chosen"}));
  });
  box.replaceChildren(picture);
  return (x) => Math.min(steps.length - 1, Math.max(0, Math.floor(x / (width + gap))));
}

// The places of a tree's nodes: a column for each depth, and the accepted path in one line at the top.
function layOut(tree) {
  const right = new Set(tree.accepted);
  const children = [[], ...tree.nodes.map(() => [])];
  tree.nodes.forEach((node, index) => children[node.parent].push(index + 1));
  for (const list of children) list.sort((a, b) => right.has(b - 1) - right.has(a - 1) || a - b);
  const places = [];
  let rows = 0;
  const stack = [[0, 0]];
  while (stack.length > 0) {
    const [node, depth] = stack.pop();
    const parent = node === 0 ? 0 : tree.nodes[node - 1].parent;
    const first = node === 0 || children[parent][0] === node;
    places[node] = {depth, row: first ? (node === 0 ? 0 : places[parent].row) : ++rows};
    for (const child of [...children[node]].reverse()) stack.push([child, depth + 1]);
  }
  return {places, rows: rows + 1, right};
}

function drawTree(box, step, root) {
  const column = 116, row = 27, box_width = 96, box_height = 20, margin = 2;
  const {tree, tokens} = step;
  const {places, rows, right} = layOut(tree);
  const own = tokens.length > tree.accepted.length ? tokens[tokens.length - 1] : null;
  const depth = Math.max(...places.map((place) => place.depth), tree.accepted.length + (own ? 1 : 0));
  const picture = svg("svg", {width: depth * column + box_width + 2 * margin, height: rows * row + 2 * margin, "aria-hidden": "true"});
  const x = (place) => margin + place.depth * column;
  const y = (place) => margin + place.row * row;
  const edge = (from, to, taken) => {
    const [x1, y1, x2, y2] = [x(from) + box_width, y(from) + box_height / 2, x(to), y(to) + box_height / 2];
    picture.prepend(svg("path", {class: taken ? "right" : "", d: `M${x1} ${y1}C${x1 + 10} ${y1} ${x2 - 12} ${y2} ${x2} ${y2}`}));
  };
  const label = (place, text, source, kind) => {
    const words = svg("text", {x: x(place) + 8, y: y(place) + 14}, fit(shown(text)));
    picture.append(svg("g", {class: kind, "data-source": source}, svg("title", {}, `${JSON.stringify(text)}, ${NAMES[source] ?? source}`),
      svg("rect", {x: x(place), y: y(place), width: box_width, height: box_height, rx: 5}), words));
  };
  const fit = (text) => (text.length > 11 ? text.slice(0, 10) + "…" : text);
  // What was right is drawn last, over the rest.
  const order = tree.nodes.map((_, index) => index).sort((a, b) => right.has(b) - right.has(a));
  for (const index of order) edge(places[tree.nodes[index].parent], places[index + 1], right.has(index));
  label(places[0], root, "model", "root");
  tree.nodes.forEach((node, index) => label(places[index + 1], node.text, node.source, right.has(index) ? "right" : ""));
  if (own) {
    // Where a wrong guess stands already, the model's own token goes to the line above it: the path's.
    const last = places[tree.accepted.length > 0 ? tree.accepted[tree.accepted.length - 1] + 1 : 0];
    const place = {depth: last.depth + 1, row: rows};
    const free = !places.some((other) => other.depth === place.depth && other.row === last.row);
    if (free) place.row = last.row;
    else picture.setAttribute("height", (rows + 1) * row + 2 * margin);
    edge(last, place, true);
    label(place, own.text, "model", "own");
  }
  box.replaceChildren(picture);
}

const NAMES = {
  model: "the model's own step",
  jacobi: "own earlier guesses (Jacobi)",
  context: "prompt and answer",
  store: "shared store",
  adjacency: "last seen successors",
  recycled: "rejected guesses",
  noise: "noise",
};

// The drawing in words.
function describe(step) {
  const {tree, tokens} = step;
  const quoted = tokens.map((token) => JSON.stringify(token.text)).join(" ");
  const guesses = tree.nodes.length === 1 ? "1 guess" : `${tree.nodes.length} guesses`;
  if (tree.nodes.length === 0) return `Nothing was guessed. The model gave ${quoted}.`;
  return `${guesses}, ${tree.accepted.length} right. One forward gave ${quoted}.`;
}
