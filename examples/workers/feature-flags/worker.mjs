// Feature flags: on, off, for some people by name, or for a share of all.
//
//   curl -X PUT -d '{"percent": 50, "users": ["ada"]}' localhost:8787/flags/new-checkout
//   curl -X PUT -d '{"percent": 100}'                  localhost:8787/flags/dark-mode
//   curl 'localhost:8787/?user=ada'                    which flags are on for Ada?
//   curl localhost:8787/flags                          all rules
//   curl -X DELETE localhost:8787/flags/dark-mode
//
// A rule is the *metadata* of its key, and the value is empty: so one list brings all rules at once, with no
// read for each of them. Whoever is in the first 20 percent is also in the first 50: growing a share takes nothing
// away from anybody.

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const name = url.pathname.match(/^\/flags\/([\w-]{1,64})$/)?.[1];

    if (url.pathname === "/" && request.method === "GET") {
      return Response.json(await flagsFor(env.KV, url.searchParams.get("user") ?? ""));
    }
    if (url.pathname === "/flags" && request.method === "GET") {
      return Response.json(Object.fromEntries(await allRules(env.KV)));
    }
    if (name && request.method === "PUT") {
      const rule = ruleOf(await request.json().catch(() => null));
      if (rule === null) return new Response('Say {"percent": 0..100, "users": [...]}.\n', { status: 400 });
      await env.KV.put(`flag:${name}`, "", { metadata: rule });
      return Response.json(rule);
    }
    if (name && request.method === "DELETE") {
      await env.KV.delete(`flag:${name}`);
      return new Response(null, { status: 204 });
    }
    return new Response("Not found\n", { status: 404 });
  },
};

async function flagsFor(kv, user) {
  const rules = await allRules(kv);
  const isOn = async ([name, { percent, users }]) => [
    name,
    users.includes(user) || (await bucketOf(name, user)) < percent,
  ];
  return Object.fromEntries(await Promise.all(rules.map(isOn)));
}

async function allRules(kv) {
  const rules = [];
  let page = { list_complete: false };
  while (!page.list_complete) {
    page = await kv.list({ prefix: "flag:", cursor: page.cursor });
    rules.push(...page.keys.map(({ name, metadata }) => [name.slice("flag:".length), metadata]));
  }
  return rules;
}

function ruleOf(body) {
  const { percent = 0, users = [] } = body ?? { percent: NaN };
  const isRule = percent >= 0 && percent <= 100 && Array.isArray(users) && users.every((u) => typeof u === "string");
  return isRule ? { percent, users } : null;
}

// A number from 0 to 99 that is always the same for this user and this flag, and says nothing about other flags.
async function bucketOf(flag, user) {
  const text = new TextEncoder().encode(`${flag}\n${user}`);
  const hash = new DataView(await crypto.subtle.digest("SHA-256", text));
  return hash.getUint32(0) % 100;
}
