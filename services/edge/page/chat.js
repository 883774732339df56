// The conversation, and the figures beside it.

const $ = (id) => document.getElementById(id);
const SOURCES = ["model", "jacobi", "context", "store", "adjacency", "recycled", "noise"];
const EXAMPLES = [
  "Tom has 3 boxes with 12 apples each. He gives 9 apples to Mia and sells half of the rest. How many apples does he have left?",
  "A train leaves at 9:15 and travels for 2 hours and 50 minutes. When does it arrive?",
  "A baker fills 4 trays with 15 rolls each and sells 38 of them. How many are left?",
];

let messages = [];
let answer = null;     // the one that the figures are about: {steps, ids, request, stats, ...}
let chosen = -1;       // the step whose tree is shown
let following = true;  // whether that is always the newest one
let running = null;    // AbortController

// Talking to the server.

function headers() {
  const key = sessionStorage.getItem("clamor-key");
  return {"Content-Type": "application/json", ...(key && {Authorization: `Bearer ${key}`})};
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 401) showKeyForm();
  return new Error(body?.error?.message ?? `The server answered with status ${response.status}.`);
}

// Calls `onChunk` with each chunk of a streamed answer.
async function stream(request, signal, onChunk) {
  const response = await fetch("/v1/chat/completions", {method: "POST", headers: headers(), body: JSON.stringify(request), signal});
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) throw new Error("The answer ended too soon.");
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const data = event.split("\n").find(line => line.startsWith("data: "))?.slice("data: ".length);
      if (data === undefined) continue;  // comments alone: where the gateway pads
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      onChunk(chunk);
    }
  }
}

async function loadModels() {
  const response = await fetch("/v1/models", {headers: headers()});
  if (!response.ok) throw await failure(response);
  const {data} = await response.json();
  $("model").replaceChildren(...data.map(({id}) => new Option(id, id)));
  if (data.length === 0) say("No model is ready yet.");
}

function makeRequest() {
  const nodes = $("nodes").value;
  return {
    model: $("model").value || undefined,
    messages: [...messages],
    stream: true,
    temperature: Number($("temperature").value),
    max_tokens: Number($("max-tokens").value) || undefined,
    // Drawn here, for numbers of 64 bits would not survive in a script.
    seed: $("seed").value === "" ? Math.floor(Math.random() * 2 ** 48) : Number($("seed").value),
    clamor: {tokens: true, trees: true, ...(nodes === "published" ? {tree: "published"} : {nodes: Number(nodes)})},
  };
}

// The conversation.

function say(text) {
  $("status").textContent = text;
}

function addTurn(kind, title, text) {
  $("intro")?.remove();
  const turn = document.createElement("article");
  turn.className = `turn ${kind}`;
  const heading = document.createElement("h3");
  heading.textContent = title;
  const body = document.createElement("div");
  body.className = "text";
  body.textContent = text;
  turn.append(heading, body);
  if (kind === "error") turn.setAttribute("role", "alert");
  $("log").append(turn);
  scrollDown(true);
  return body;
}

function scrollDown(always) {
  const log = $("log");
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 120) log.scrollTop = log.scrollHeight;
}

function newAnswer(request, body) {
  return {request, body, steps: [], ids: [], counts: {}, forwards: 0, begun: null, stats: null};
}

function addChunk(one, chunk) {
  const choice = chunk.choices[0];
  if (!choice) return;
  const {tokens = [], trees = [], ...rest} = choice.clamor ?? {};
  if (choice.finish_reason) {
    one.stats = rest;
    return;
  }
  one.begun ??= performance.now();
  for (const token of tokens) {
    // A step ends with the model's own token; trees say where they begin, too, unless too many came at once.
    const last = one.steps[one.steps.length - 1];
    const begins = !last || last.complete;
    const step = begins ? {tokens: [], tree: null, first: one.ids.length, complete: false} : last;
    if (begins) one.steps.push(step);
    step.tokens.push(token);
    step.complete = token.source === "model";
    one.ids.push(token.id);
    one.counts[token.source] = (one.counts[token.source] ?? 0) + 1;
    if (one.body && token.text) one.body.append(tokenSpan(token, one.steps.length - 1));
  }
  for (const tree of trees) {
    const step = one.steps.find((candidate) => candidate.first === tree.first_token_index);
    if (step) step.tree = tree;
  }
  one.forwards = one.steps.length;
}

function tokenSpan(token, step) {
  const span = document.createElement("span");
  span.className = "token";
  span.dataset.source = token.source;
  span.dataset.step = step;
  span.title = token.source === "model" ? "the model's own step" : `guessed by: ${NAMES[token.source] ?? token.source}`;
  span.textContent = token.text;
  return span;
}

async function ask(text) {
  messages.push({role: "user", content: text});
  addTurn("user", "You", text);
  const body = addTurn("answer", "Answer", "");
  body.classList.add("busy");
  const log = $("log");
  log.setAttribute("aria-busy", "true");
  answer = newAnswer(makeRequest(), body);
  following = true;
  chosen = -1;
  $("verdict").textContent = "";
  setRunning(new AbortController());
  say("Thinking…");
  try {
    await stream(answer.request, running.signal, (chunk) => {
      addChunk(answer, chunk);
      refreshSoon();
      scrollDown(false);
    });
    say(summary(answer));
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else addTurn("error", "Error", error.message), say("");
  }
  setRunning(null);
  log.removeAttribute("aria-busy");
  body.classList.remove("busy");
  if (body.textContent) messages.push({role: "assistant", content: body.textContent});
  else messages.pop(), body.parentElement.remove();
  refresh();
}

function summary(one) {
  const forwards = one.stats?.forwards ?? one.forwards;
  return `${one.ids.length} tokens in ${forwards} forwards of the model.`;
}

function setRunning(controller) {
  running = controller;
  $("send").textContent = controller ? "Stop" : "Send";
  $("compare").disabled = controller !== null || !answer?.stats;
}

// The same request by plain decoding: it must give the same ids, and shows what guessing gained.
async function compare() {
  const one = answer;
  const plain = newAnswer({...one.request, clamor: {tokens: true, trees: true, nodes: 0}}, null);
  setRunning(new AbortController());
  $("verdict").textContent = "Decoding plainly…";
  try {
    await stream(plain.request, running.signal, (chunk) => addChunk(plain, chunk));
    const same = plain.ids.length === one.ids.length && plain.ids.every((id, index) => id === one.ids[index]);
    one.plain = speedOf(plain);
    $("verdict").textContent = same ? `The same ${plain.ids.length} tokens, in ${plain.stats.forwards} forwards.${advice(one)}`
                                    : "The tokens differ. That must not happen; please report it.";
  } catch (error) {
    $("verdict").textContent = error.name === "AbortError" ? "Stopped." : error.message;
  }
  setRunning(null);
  refresh();
}

// How many guesses pay depends on the model and the machine; only a number that somebody chose can be slower than none.
function advice(one) {
  const chosen = one.request.clamor.tree === "published" || one.request.clamor.nodes > 0;
  return chosen && speedOf(one) < one.plain ? " So many guesses cost more than they gain here; as many as pay do not." : "";
}

// The figures.

// Tokens a second. What the first forward brought ended the reading of the prompt: only the rest took this time.
function speedOf(one) {
  const seconds = one.stats ? one.stats.decode_seconds : (performance.now() - one.begun) / 1000;
  const tokens = one.ids.length - (one.steps[0]?.tokens.length ?? 0);
  return seconds > 0 ? tokens / seconds : 0;
}

let refreshing = false;
function refreshSoon() {
  if (refreshing) return;
  refreshing = true;
  requestAnimationFrame(() => {
    refreshing = false;
    refresh();
  });
}

function refresh() {
  const one = answer;
  const known = one && one.ids.length > 0;
  const forwards = known ? one.stats?.forwards || one.forwards : 0;
  const speed = known ? speedOf(one) : 0;
  show("per-forward", forwards && (one.ids.length / forwards).toFixed(2));
  show("per-second", speed && speed.toFixed(speed < 100 ? 1 : 0));
  show("ratio", known && one.plain && speed && `× ${(speed / one.plain).toFixed(2)}`);
  drawLegend(known ? one.counts : {});
  choose(following && known ? one.steps.length - 1 : chosen, following);
}

function show(id, figure) {
  $(id).textContent = figure || "–";
  $(id).classList.toggle("unknown", !figure);
}

function drawLegend(counts) {
  $("legend").replaceChildren(...SOURCES.map((source) => {
    const item = document.createElement("li");
    item.dataset.source = source;
    const mark = document.createElement("i"), name = document.createElement("span"), count = document.createElement("b");
    name.textContent = NAMES[source];
    count.textContent = counts[source] ?? 0;
    item.classList.toggle("none", !counts[source]);
    item.append(mark, name, count);
    return item;
  }));
}

let stepAt = () => 0;

function choose(index, follow) {
  following = follow;
  const steps = answer?.steps ?? [];
  chosen = Math.min(index, steps.length - 1);
  stepAt = drawSteps($("steps"), steps, chosen);
  for (const token of document.querySelectorAll(".token.chosen")) token.classList.remove("chosen");
  const slider = $("steps");
  if (chosen < 0) {
    $("tree").replaceChildren();
    $("step-number").textContent = "–";
    return;
  }
  const step = steps[chosen];
  if (!running) {
    for (const token of answer.body.querySelectorAll(`[data-step="${chosen}"]`)) token.classList.add("chosen");
  }
  $("step-number").textContent = `${chosen + 1} of ${steps.length}`;
  const words = describe(step);
  if (!running) $("tree-text").textContent = words;
  slider.setAttribute("aria-valuemax", steps.length);
  slider.setAttribute("aria-valuenow", chosen + 1);
  slider.setAttribute("aria-valuetext", `step ${chosen + 1}: ${step.tokens.length} tokens`);
  const before = chosen > 0 ? steps[chosen - 1].tokens : [];
  drawTree($("tree"), step, before.length > 0 ? before[before.length - 1].text : "…");
  if (follow) slider.scrollLeft = slider.scrollWidth;
}

// Wiring.

function showKeyForm() {
  $("key-form").hidden = false;
  $("key").focus();
}

function setTheme(choice) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = choice ?? (dark ? "dark" : "light");
  $("theme").setAttribute("aria-label", `Colours: ${choice ?? "as the system says"}`);
}

function start() {
  setTheme(localStorage.getItem("clamor-theme"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(localStorage.getItem("clamor-theme")));
  $("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("clamor-theme", next);
    setTheme(next);
  });

  $("examples").append(...EXAMPLES.map((text) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = text;
    button.addEventListener("click", () => ask(text));
    item.append(button);
    return item;
  }));

  const prompt = $("prompt");
  const grow = () => {
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight + 2}px`;
  };
  prompt.addEventListener("input", grow);
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return running.abort();
    const text = prompt.value.trim();
    if (!text) return;
    prompt.value = "";
    grow();
    ask(text);
  });
  $("reset").addEventListener("click", () => {
    running?.abort();
    messages = [];
    answer = null;
    $("log").replaceChildren();
    $("verdict").textContent = "";
    say("");
    refresh();
    prompt.focus();
  });
  $("compare").addEventListener("click", compare);

  $("log").addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token && answer?.body.contains(token)) choose(Number(token.dataset.step), false);
  });
  $("steps").addEventListener("click", (event) => {
    const box = $("steps");
    choose(stepAt(event.clientX - box.getBoundingClientRect().left + box.scrollLeft), false);
  });
  $("steps").addEventListener("keydown", (event) => {
    const last = (answer?.steps.length ?? 0) - 1;
    const to = {ArrowLeft: chosen - 1, ArrowDown: chosen - 1, ArrowRight: chosen + 1, ArrowUp: chosen + 1, Home: 0, End: last}[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(last, to)), false);
  });

  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("clamor-key", $("key").value);
    $("key-form").hidden = true;
    loadModels().catch((error) => say(error.message));
  });
  refresh();
  const needs_key = document.documentElement.dataset.needsKey === "true";
  if (needs_key && !sessionStorage.getItem("clamor-key")) showKeyForm();
  else loadModels().catch((error) => say(error.message));
}

start();
