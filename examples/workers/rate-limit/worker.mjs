// So many requests a minute and client, and a polite answer to those who ask for more.
//
//   for i in $(seq 12); do curl -i -s -H 'X-Api-Key: me' localhost:8787/ | grep -iE '^(HTTP|Rate|Retry)'; done
//
// One record a client: how often it has asked, and until when that counts. It expires by itself. Reading and
// writing are two steps, so requests that arrive in the same moment may be counted once: this protects a service
// from those who ask too much, and is not for counting money. (For that, INCR by a Redis client is atomic.)

const LIMIT = 10;
const WINDOW_SECONDS = 60;

export default {
  async fetch(request, env) {
    const limit = await spend(env.KV, clientOf(request), Number(env.LIMIT ?? LIMIT));
    const headers = {
      "RateLimit-Limit": limit.limit,
      "RateLimit-Remaining": limit.remaining,
      "RateLimit-Reset": limit.resetSeconds,
    };
    if (limit.exceeded) {
      headers["Retry-After"] = limit.resetSeconds;
      return new Response("Too many requests.\n", { status: 429, headers });
    }
    return new Response("Here you are.\n", { headers });
  },
};

async function spend(kv, client, limit) {
  const key = `limit:${client}`;
  const now = Date.now();
  let window = await kv.get(key, "json");
  if (window === null || window.endsAt <= now) window = { count: 0, endsAt: now + WINDOW_SECONDS * 1000 };

  const exceeded = window.count >= limit;
  if (!exceeded) {
    window.count += 1;
    // The record may outlive its window by a little, so that it has the shortest life that KV allows.
    await kv.put(key, JSON.stringify(window), { expirationTtl: WINDOW_SECONDS });
  }
  return {
    exceeded,
    limit,
    remaining: limit - window.count,
    resetSeconds: Math.ceil((window.endsAt - now) / 1000),
  };
}

// Who asks: the key that it shows (whether it is a good one is for others to say: see token-gateway), else its address,
// as the proxy in front of us tells it.
function clientOf(request) {
  const { headers } = request;
  return headers.get("X-Api-Key") ?? headers.get("X-Forwarded-For")?.split(",")[0].trim() ?? "anonymous";
}
