"use strict";
// While the page is visible, asks every two seconds for the sections that changed and replaces them; reads values off curves.
const EVERY_MS = 2000;
const PATIENCE_MS = 20000;
const known = {};
let lastAnswer = new Date();
let ahead = 0; // milliseconds by which the learner's clock is ahead of the browser's
let readCurve = null; // the label of the curve under the pointer or with the focus, and the step that is read

// Pictures are decoded before they are shown: otherwise a section would flicker each time it is replaced.
function decoded(markup) {
  const pictures = [...markup.matchAll(/href="(data:image\/[^"]+)"/g)].map(([, address]) => {
    const picture = new Image();
    picture.src = address;
    return picture.decode().catch(() => undefined);
  });
  return Promise.all(pictures);
}

async function update() {
  const answer = await fetch(`sections?${new URLSearchParams(known)}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) {
    location.reload(); // the token has changed: the page asks for the new one
    return;
  }
  if (!answer.ok) throw new Error(`The learner answers with an error, ${answer.status}; its log says more.`);
  ahead = Date.parse(answer.headers.get("date")) - Date.now() || 0;
  for (const [name, [version, markup]] of Object.entries(await answer.json())) {
    await decoded(markup);
    const section = document.getElementById(name);
    if (!section) {
      location.reload(); // the learner is of a newer version than this document
      return;
    }
    replace(section, markup);
    known[name] = version;
  }
  lastAnswer = new Date();
}

// A curve that has the focus keeps it, and goes on showing the step that was read.
function replace(section, markup) {
  const focused = section.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  section.innerHTML = markup;
  for (const curve of section.querySelectorAll(".sketch")) {
    const label = curve.getAttribute("aria-label");
    if (label === focused) curve.focus({ preventScroll: true });
    if (readCurve && label === readCurve.label) read(curve, readCurve.step);
  }
}

function showSilence(silence) {
  const line = document.getElementById("silence");
  const verdict = document.querySelector(".verdict");
  line.hidden = !silence;
  if (!silence) line.textContent = "";
  else if (verdict && verdict.dataset.phase === "stopping") {
    line.textContent = `This learner has stopped, at about ${lastAnswer.toLocaleTimeString()}. Its report is report.html in the folder of the run.`;
  } else line.textContent = `${silence} The page shows its state of ${lastAnswer.toLocaleTimeString()}.`;
  document.body.classList.toggle("silent", Boolean(silence));
}

function showAges() {
  for (const time of document.querySelectorAll("time")) {
    time.dataset.text ??= time.textContent;
    const seconds = Math.max(0, Math.round((Date.now() + ahead - Date.parse(time.dateTime)) / 1000));
    const age = seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
    time.textContent = `${time.dataset.text}, ${age} ago`;
  }
}

// The lines of a curve as points [x, y] in the units of its picture.
function linesOf(curve) {
  return [...curve.querySelectorAll(".curve:not(.start)")].map((path) =>
    [...path.getAttribute("d").matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y)]),
  );
}

// Shows the values nearest to a step: a line with dots, the step below it, the values in place of the last ones.
function read(curve, step) {
  const [first, last, low, high] = curve.dataset.range.split(" ").map(Number);
  const [left, right, top, bottom] = curve.dataset.box.split(" ").map(Number);
  const wanted = left + ((step - first) / (last - first || 1)) * (right - left);
  const points = linesOf(curve).map((line) => line.reduce((a, b) => (Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)));
  const x = points[0][0];
  const at = Math.round(first + ((x - left) / (right - left)) * (last - first));
  const values = points.map(([, y]) => Number((low + ((bottom - y) / (bottom - top)) * (high - low)).toPrecision(3)));
  unread(curve);
  const shown = document.createElementNS("http://www.w3.org/2000/svg", "g");
  shown.setAttribute("class", "reading");
  const side = x < (left + right) / 2 ? ["start", x + 5] : ["end", x - 5];
  shown.innerHTML = `<path d="M${x} ${top}V${bottom}"/>${points.map(([px, py]) => `<circle cx="${px}" cy="${py}" r="3"/>`).join("")}
    <text x="${side[1]}" y="${top + 9}" text-anchor="${side[0]}">step ${at}: ${values.join(" / ")}</text>`;
  curve.append(shown);
  curve.setAttribute("aria-valuenow", at);
  curve.setAttribute("aria-valuetext", `step ${at}: ${values.join(" and ")}`);
  readCurve = { label: curve.getAttribute("aria-label"), step: at };
}

function unread(curve) {
  curve.querySelector(".reading")?.remove();
  readCurve = null;
}

function stepUnder(curve, event) {
  const [first, last] = curve.dataset.range.split(" ").map(Number);
  const [left, right] = curve.dataset.box.split(" ").map(Number);
  const bounds = curve.getBoundingClientRect();
  const x = ((event.clientX - bounds.left) / bounds.width) * curve.viewBox.baseVal.width;
  return first + ((x - left) / (right - left)) * (last - first);
}

function nextStep(curve, key) {
  const [first, last] = curve.dataset.range.split(" ").map(Number);
  const [left, right] = curve.dataset.box.split(" ").map(Number);
  const steps = linesOf(curve)[0].map(([x]) => first + ((x - left) / (right - left)) * (last - first));
  const now = Number(curve.getAttribute("aria-valuenow"));
  const nearest = steps.reduce((a, b, i) => (Math.abs(b - now) < Math.abs(steps[a] - now) ? i : a), 0);
  const moves = { ArrowLeft: nearest - 1, ArrowDown: nearest - 1, ArrowRight: nearest + 1, ArrowUp: nearest + 1, Home: 0, End: steps.length - 1 };
  return key in moves ? steps[Math.min(steps.length - 1, Math.max(0, moves[key]))] : null;
}

for (const kind of ["pointermove", "pointerdown"]) {
  document.addEventListener(kind, (event) => {
    const curve = event.target.closest?.(".sketch");
    for (const other of document.querySelectorAll(".sketch:has(.reading)")) if (other !== curve) unread(other);
    if (curve) read(curve, stepUnder(curve, event));
  });
}
document.addEventListener("keydown", (event) => {
  const curve = event.target.closest?.(".sketch");
  const step = curve ? nextStep(curve, event.key) : null;
  if (step === null) return;
  event.preventDefault();
  read(curve, step);
});
document.addEventListener("focusout", (event) => {
  const curve = event.target.closest?.(".sketch");
  if (curve?.isConnected) unread(curve);
});

async function watch() {
  for (;;) {
    if (!document.hidden) {
      try {
        await update();
        showSilence("");
      } catch (error) {
        showSilence(error.name === "Error" ? error.message : "The learner does not answer.");
      }
      showAges();
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

watch();
