// A script of 2018's kind: the binding is a global.
addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const key = new URL(request.url).pathname.slice(1);
  const value = await CACHE.get(key);
  return value === null ? new Response("none", { status: 404 }) : new Response(value);
}
