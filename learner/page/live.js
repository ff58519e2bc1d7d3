"use strict";
// Asks every two seconds, while it is seen, for the parts of the page that are new, and puts them in their places.
const EVERY_MS = 2000;
const PATIENCE_MS = 20000;
const known = {};
let heard = new Date();

// Decoded before they are shown: else a part would flicker each time it is replaced.
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
    location.reload(); // the token is another one: the page asks for it
    return;
  }
  if (!answer.ok) throw new Error(`${answer.status}`);
  for (const [name, [version, markup]] of Object.entries(await answer.json())) {
    await decoded(markup);
    document.getElementById(name).innerHTML = markup;
    known[name] = version;
  }
  heard = new Date();
}

function say(silence) {
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
        say("");
      } catch {
        say(`The learner does not answer; what is shown is of ${heard.toLocaleTimeString()}.`);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

watch();
