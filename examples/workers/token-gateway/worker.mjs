// A gateway that lets in those with a token, and tells the service behind it who they are.
//
//   curl -X POST -H 'Authorization: Bearer change me' -d '{"owner": "ada", "paths": ["/reports"]}' localhost:8787/-/tokens
//   curl -H "Authorization: Bearer $TOKEN" localhost:8787/reports/2026      the service answers
//   curl -H "Authorization: Bearer $TOKEN" localhost:8787/salaries          403: not among its paths
//   curl -X DELETE -H 'Authorization: Bearer change me' localhost:8787/-/tokens/$TOKEN
//
// A token is kept as its hash: who reads the store learns no token. What it may do is the metadata of its key, so one
// read decides. A token that was revoked ends on every node as fast as any write travels.

const YEAR_SECONDS = 365 * 24 * 3600;

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const token = request.headers.get("Authorization")?.match(/^Bearer (.+)$/)?.[1];
    if (!token) return refuse(401, "A token is needed.", { "WWW-Authenticate": "Bearer" });

    if (pathname.startsWith("/-/")) {
      const isAdmin = (await digest(token)) === (await digest(env.ADMIN_TOKEN));
      return isAdmin ? administer(request, env.KV, pathname) : refuse(403, "This is for administrators.");
    }

    const { metadata: grant } = await env.KV.getWithMetadata(`token:${await digest(token)}`);
    if (grant === null) return refuse(401, "This token is unknown, revoked or expired.");
    if (!grant.paths.some((path) => pathname === path || pathname.startsWith(`${path}/`))) {
      return refuse(403, "This token is not for that.");
    }

    const forwarded = new Request(request);
    forwarded.headers.delete("Authorization");
    forwarded.headers.set("X-Consumer", grant.owner);
    return env.SERVICE.fetch(forwarded);
  },
};

async function administer(request, kv, pathname) {
  const [, , area, token] = pathname.split("/");
  if (area === "tokens" && request.method === "POST") {
    const { owner, paths = [""] } = await request.json();
    const fresh = `tok_${crypto.getRandomValues(new Uint8Array(24)).toBase64({ alphabet: "base64url" })}`;
    await kv.put(`token:${await digest(fresh)}`, "", {
      expirationTtl: YEAR_SECONDS,
      metadata: { owner, paths, issued: new Date().toISOString() },
    });
    return Response.json({ token: fresh, owner, paths }, { status: 201 });
  }
  if (area === "tokens" && token && request.method === "DELETE") {
    await kv.delete(`token:${await digest(token)}`);
    return new Response(null, { status: 204 });
  }
  return refuse(404, "Not found");
}

async function digest(token) {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
  return new Uint8Array(bytes).toHex();
}

function refuse(status, text, headers = {}) {
  return Response.json({ error: text }, { status, headers });
}
