// A cache before a slow API: what is stale is served at once, and made fresh behind the visitor's back.
//
//   curl -i localhost:8787/weather/berlin       two seconds: X-Cache: miss
//   curl -i localhost:8787/weather/berlin       at once:     X-Cache: hit
//   sleep 30
//   curl -i localhost:8787/weather/berlin       at once:     X-Cache: stale; and it is being refreshed
//   curl -i localhost:8787/weather/berlin       at once:     X-Cache: hit, with a new answer
//
// Whoever comes first pays for the answer; after that nobody waits again, as long as somebody asks once a day. If
// the API is down, the last good answer goes on being served.

const FRESH_SECONDS = 30;
const KEPT_SECONDS = 24 * 3600;

export default {
  async fetch(request, env, ctx) {
    if (request.method !== "GET") return env.API.fetch(request);
    const key = cacheKey(request.url);
    const { value, metadata } = await env.KV.getWithMetadata(key, "stream");

    if (value === null) {
      const response = await env.API.fetch(request);
      if (!response.ok) return response;
      const [body, copy] = response.body.tee();
      ctx.waitUntil(store(env.KV, key, copy, response));
      return answer(body, response.headers.get("Content-Type"), "miss", 0);
    }

    const age = (Date.now() - metadata.storedAt) / 1000;
    const isFresh = age < Number(env.FRESH_SECONDS ?? FRESH_SECONDS);
    if (!isFresh) ctx.waitUntil(refresh(env, key, request));
    return answer(value, metadata.type, isFresh ? "hit" : "stale", Math.floor(age));
  },
};

// The same question in another order of words is the same question.
function cacheKey(address) {
  const url = new URL(address);
  url.searchParams.sort();
  return url.pathname + url.search;
}

async function refresh(env, key, request) {
  const response = await env.API.fetch(request);
  if (response.ok) await store(env.KV, key, response.body, response);
  else console.warn(`${key} stays as it is: the API says ${response.status}`);
}

function store(kv, key, body, response) {
  return kv.put(key, body, {
    expirationTtl: KEPT_SECONDS,
    metadata: { type: response.headers.get("Content-Type"), storedAt: Date.now() },
  });
}

function answer(body, type, state, age) {
  return new Response(body, { headers: { "Content-Type": type, "X-Cache": state, Age: age } });
}
