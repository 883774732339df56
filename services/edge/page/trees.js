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
  return line.length > 14 ? line.slice(0, 13) + "…" : line || "∅";
}

// A column a step, a cell a token: the model's own at the bottom, what was guessed on top of it.
function drawSteps(box, steps, chosen) {
  const gap = 2, most = Math.max(4, ...steps.map((step) => step.tokens.length));
  const width = Math.max(7, Math.min(16, Math.floor(box.clientWidth / Math.max(1, steps.length)) - gap));
  const cell = Math.max(3, Math.min(9, Math.floor(96 / most)));
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

// The places of a tree's nodes: a column for each depth. A node and its first child stand in one row, the accepted
// path in the uppermost; every other branch takes the first row below its parent's where there is room for it.
function layOut(nodes, accepted) {
  const right = new Set(accepted);
  const children = [[], ...nodes.map(() => [])];
  nodes.forEach((node, index) => children[node.parent].push(index + 1));
  for (const list of children) list.sort((a, b) => right.has(b - 1) - right.has(a - 1) || a - b);

  const places = [], taken = [];  // by node, the root first; by row and depth
  const branches = [{first: 0, depth: 0, above: -1}];
  for (const {first, depth, above} of branches) {  // shallow ones first: the list grows as it is walked
    const chain = [];
    for (let node = first; node !== undefined; node = children[node][0]) chain.push(node);
    let row = above + 1;
    while (chain.some((_, step) => taken[row]?.[depth + step])) ++row;
    chain.forEach((node, step) => {
      (taken[row] ??= [])[depth + step] = true;
      places[node] = {depth: depth + step, row};
      for (const child of children[node].slice(1)) branches.push({first: child, depth: depth + step + 1, above: row});
    });
  }
  return {places, right};
}

function drawTree(box, step, root) {
  const tokens = step.tokens, tree = step.tree ?? {nodes: [], accepted: []};
  const nodes = [...tree.nodes], accepted = [...tree.accepted];
  const own = tokens.length > accepted.length ? nodes.length : -1;
  if (own >= 0) {  // the model's own token goes on where the guesses were right
    nodes.push({text: tokens[tokens.length - 1].text, source: "model", parent: accepted.length > 0 ? accepted[accepted.length - 1] + 1 : 0});
    accepted.push(own);
  }
  const {places, right} = layOut(nodes, accepted);
  const labels = nodes.map((node, index) => (
    {place: places[index + 1], text: node.text, source: node.source, kind: index === own ? "own" : right.has(index) ? "right" : ""}));
  labels.unshift({place: places[0], text: root, source: "model", kind: "root"});
  const edges = nodes.map((node, index) => ({from: places[node.parent], to: places[index + 1], right: right.has(index)}));
  paintTree(box, labels, edges.sort((a, b) => a.right - b.right));
}

function paintTree(box, labels, edges) {
  const row = 26, height = 20, gap = 14, margin = 2;
  const widths = [], lefts = [];
  for (const {place, text} of labels) widths[place.depth] = Math.max(widths[place.depth] ?? 26, 7.2 * shown(text).length + 14);
  widths.reduce((left, width, depth) => (lefts[depth] = left, left + width + gap), margin);
  const rows = Math.max(...labels.map(({place}) => place.row)) + 1;
  const deepest = widths.length - 1;
  const picture = svg("svg", {width: lefts[deepest] + widths[deepest] + margin, height: rows * row, "aria-hidden": "true"});
  for (const {from, to, right} of edges) {
    const x1 = lefts[from.depth] + widths[from.depth], y1 = margin + from.row * row + height / 2;
    const x2 = lefts[to.depth], y2 = margin + to.row * row + height / 2, bend = gap / 2;
    picture.append(svg("path", {class: right ? "right" : "", d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`}));
  }
  for (const {place, text, source, kind} of labels) {
    const x = lefts[place.depth], y = margin + place.row * row;
    picture.append(svg("g", {class: kind, "data-source": source}, svg("title", {}, `${JSON.stringify(text)}, ${NAMES[source] ?? source}`),
      svg("rect", {x, y, width: widths[place.depth], height, rx: 5}), svg("text", {x: x + 7, y: y + 14}, shown(text))));
  }
  box.replaceChildren(picture);
}

const NAMES = {
  model: "the model's own step",
  jacobi: "Jacobi trail",
  context: "prompt and answer",
  store: "shared store",
  adjacency: "last successors",
  recycled: "rejected guesses",
  noise: "noise",
};

// The drawing in words.
function describe(step) {
  const {tree, tokens} = step;
  const quoted = JSON.stringify(tokens.map((token) => token.text).join(""));
  if (tree === null) return `One forward gave ${quoted}. Its tree did not come: the page was too slow to take all.`;
  const guesses = tree.nodes.length === 1 ? "1 guess" : `${tree.nodes.length} guesses`;
  if (tree.nodes.length === 0) return `Nothing was guessed. The model gave ${quoted}.`;
  return `${guesses}, ${tree.accepted.length} right. One forward gave ${quoted}.`;
}
