// A shopping cart that waits a week for its owner.
//
//   curl -c jar -b jar -X PUT -d 2 localhost:8787/cart/tea       two packets of tea
//   curl -c jar -b jar -X PUT -d 1 localhost:8787/cart/teapot    and a pot
//   curl -c jar -b jar localhost:8787/cart                       what is in it, and what it costs
//   curl -c jar -b jar -X DELETE localhost:8787/cart/teapot      too much after all
//
// The prices are records as well (seed.json holds the first ones), and are read in one call for all that is in the
// cart: `kvd key put -n cart price:tea 4.20` changes what everybody pays.

const WEEK_SECONDS = 7 * 24 * 3600;

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const [, area, item] = pathname.split("/");
    if (area !== "cart") return new Response("Not found\n", { status: 404 });

    const id = cartOf(request) ?? crypto.randomUUID();
    const key = `cart:${id}`;
    const cart = (await env.KV.get(key, "json")) ?? {};

    if (item && request.method === "PUT") {
      const count = Number(await request.text());
      if (!Number.isInteger(count) || count < 1) return new Response("How many?\n", { status: 400 });
      if ((await env.KV.get(`price:${item}`)) === null) return new Response("We have no such thing.\n", { status: 404 });
      cart[item] = count;
    } else if (item && request.method === "DELETE") {
      delete cart[item];
    } else if (item || request.method !== "GET") {
      return new Response("Method not allowed\n", { status: 405 });
    }

    if (request.method !== "GET") await env.KV.put(key, JSON.stringify(cart), { expirationTtl: WEEK_SECONDS });
    return Response.json(await bill(env.KV, cart), { headers: { "Set-Cookie": cookie(id) } });
  },
};

async function bill(kv, cart) {
  const items = Object.keys(cart).sort();
  const prices = items.length ? await kv.get(items.map((item) => `price:${item}`)) : new Map();
  const lines = items.map((item) => {
    const price = Number(prices.get(`price:${item}`));
    return { item, count: cart[item], price, sum: inCents(cart[item] * price) };
  });
  return { lines, total: inCents(lines.reduce((total, { sum }) => total + sum, 0)) };
}

function inCents(amount) {
  return Math.round(amount * 100) / 100;
}

function cartOf(request) {
  return request.headers.get("Cookie")?.match(/(?:^|;\s*)cart=([\w-]{36})(?:;|$)/)?.[1] ?? null;
}

function cookie(id) {
  return `cart=${id}; Path=/; Max-Age=${WEEK_SECONDS}; HttpOnly; SameSite=Lax`;
}
