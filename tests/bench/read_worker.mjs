// Reads one key: what `make bench-http` loads, once with kvd as its KV and once with miniflare's own.

export default {
  async fetch(request, env) {
    return new Response(await env.KV.get("hot"));
  },
};
