// The table of logarithms, 1 to 9999, to seven places. Each entry is computed when somebody first needs it, and then
// looked up for ever. It comes as a punched card, as the Analytical Engine would have asked its attendant for it.
//
//   curl localhost:8787/2303                             a card; X-Table: miss
//   curl -i localhost:8787/2303                          the same card; X-Table: hit
//   curl -H 'Accept: application/json' localhost:8787/7
//   kvd key list -n logarithms                           what has been needed so far
//
// In a browser, the card is a picture. "On two occasions I have been asked, 'Pray, Mr. Babbage, if you put into the
// machine wrong figures, will the right answers come out?'": here, they are 400.

import { cardAsText, cardAsSvg } from "./card.mjs";

const LAST = 9999;
const PLACES = 7;

export default {
  async fetch(request, env, ctx) {
    const number = Number(new URL(request.url).pathname.slice(1));
    if (!Number.isInteger(number) || number < 1 || number > LAST) {
      return new Response(`Ask for a whole number from 1 to ${LAST}.\n`, { status: 400 });
    }

    // Padded with zeros, the keys stand in the order of the numbers.
    const key = String(number).padStart(4, "0");
    let logarithm = await env.KV.get(key);
    const state = logarithm === null ? "miss" : "hit";
    if (logarithm === null) {
      logarithm = Math.log10(number).toFixed(PLACES);
      ctx.waitUntil(env.KV.put(key, logarithm));
    }
    return show(request, { number, key, logarithm, state });
  },
};

function show(request, { number, key, logarithm, state }) {
  const headers = { "X-Table": state, Vary: "Accept" };
  const accept = request.headers.get("Accept") ?? "";
  if (accept.includes("application/json")) return Response.json({ number, logarithm: Number(logarithm) }, { headers });

  const text = `LOG ${key} = ${logarithm}`;
  if (accept.includes("text/html")) {
    headers["Content-Type"] = "image/svg+xml";
    return new Response(cardAsSvg(text), { headers });
  }
  return new Response(cardAsText(text), { headers });
}
