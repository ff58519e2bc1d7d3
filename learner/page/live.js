"use strict";
// While the page is visible, asks every two seconds for the sections that changed and replaces them.
const EVERY_MS = 2000;
const PATIENCE_MS = 20000;
const known = {};
let lastAnswer = new Date();

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
  if (!answer.ok) throw new Error(`${answer.status}`);
  for (const [name, [version, markup]] of Object.entries(await answer.json())) {
    await decoded(markup);
    document.getElementById(name).innerHTML = markup;
    known[name] = version;
  }
  lastAnswer = new Date();
}

function showSilence(silence) {
  const line = document.getElementById("silence");
  line.hidden = !silence;
  line.textContent = silence;
  document.body.classList.toggle("silent", Boolean(silence));
}

async function watch() {
  for (;;) {
    if (!document.hidden) {
      try {
        await update();
        showSilence("");
      } catch {
        showSilence(`The learner does not answer; the page shows its state of ${lastAnswer.toLocaleTimeString()}.`);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

watch();
