// A static site whose files are records: one key a file, uploaded from public/.
//
//   curl -i localhost:8787/                          public/index.html
//   curl -i localhost:8787/style.css
//   curl -i localhost:8787/nothing                   public/404.html, with status 404
//   kvd key put -n site about.html --path about.html      one more page, at once, without a restart
//
// A file's type follows from its name, and its ETag from what is in it: a browser that has the same file already is told
// so, and gets no second copy.

const TYPES = {
  css: "text/css; charset=utf-8",
  html: "text/html; charset=utf-8",
  ico: "image/x-icon",
  jpg: "image/jpeg",
  js: "text/javascript; charset=utf-8",
  json: "application/json",
  png: "image/png",
  svg: "image/svg+xml",
  txt: "text/plain; charset=utf-8",
  webp: "image/webp",
  woff2: "font/woff2",
};

export default {
  async fetch(request, env) {
    if (request.method !== "GET" && request.method !== "HEAD") {
      return new Response("Method not allowed\n", { status: 405, headers: { Allow: "GET, HEAD" } });
    }
    const name = fileName(request.url);
    const body = await env.KV.get(name, "arrayBuffer");
    if (body === null) return notFound(env.KV);

    const etag = await etagOf(body);
    const headers = { "Content-Type": typeOf(name), ETag: etag, "Cache-Control": "public, max-age=60" };
    if (request.headers.get("If-None-Match")?.includes(etag)) return new Response(null, { status: 304, headers });
    return new Response(body, { headers });
  },
};

// "/" is index.html, "/docs/" is docs/index.html, and "/about" is about.html.
function fileName(address) {
  const path = decodeURIComponent(new URL(address).pathname).slice(1);
  if (path === "" || path.endsWith("/")) return `${path}index.html`;
  return path.split("/").at(-1).includes(".") ? path : `${path}.html`;
}

async function notFound(kv) {
  const page = await kv.get("404.html", "stream");
  return new Response(page, { status: 404, headers: { "Content-Type": TYPES.html } });
}

async function etagOf(body) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
  return `"${hash.slice(0, 12).toHex()}"`;
}

function typeOf(name) {
  return TYPES[name.split(".").at(-1).toLowerCase()] ?? "application/octet-stream";
}
