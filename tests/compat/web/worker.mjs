// A Worker that does what the tests ask: POST {"call", "args"} runs env.CACHE[call](...args).

async function describe(value) {
  if (value instanceof Map) return { map: Object.fromEntries([...value].map(([k, v]) => [k, v])) };
  if (value instanceof ArrayBuffer) return { bytes: [...new Uint8Array(value)] };
  if (value instanceof ReadableStream) return { stream: await new Response(value).text() };
  return value === undefined ? { undefined: true } : value;
}

const calls = {
  async putBytes(kv, key, bytes, options) {
    return kv.put(key, new Uint8Array(bytes), options);
  },
  async putStream(kv, key, size) {
    const part = new Uint8Array(1000).fill(120);
    let left = size / 1000;
    return kv.put(
      key,
      new ReadableStream({
        pull(controller) {
          if (left-- > 0) controller.enqueue(part);
          else controller.close();
        },
      }),
    );
  },
  async putLarge(kv, key, size) {
    return kv.put(key, new Uint8Array(size));
  },
  async many(kv, count) {
    await Promise.all(Array.from({ length: count }, (_, n) => kv.put(`many${n}`, String(n))));
    return Promise.all(Array.from({ length: count }, (_, n) => kv.get(`many${n}`)));
  },
  async all(kv, options) {
    const names = [];
    let page;
    do {
      page = await kv.list({ ...options, cursor: page?.cursor });
      names.push(...page.keys.map((key) => key.name));
    } while (!page.list_complete);
    return names;
  },
};

export default {
  async fetch(request, env) {
    const { binding = "CACHE", call, args } = await request.json();
    const kv = env[binding];
    try {
      const result = calls[call] ? await calls[call](kv, ...args) : await kv[call](...args);
      return Response.json({ result: await describe(result) });
    } catch (error) {
      return Response.json({ error: `${error.name}: ${error.message}` });
    }
  },
};
