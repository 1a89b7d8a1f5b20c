// Sessions that live as long as they are used, up to an hour after the last request.
//
//   curl -c jar -d name=Ada localhost:8787/login     log in; the cookie goes into the file "jar"
//   curl -b jar localhost:8787/                      who am I?
//   curl -b jar -X POST localhost:8787/logout        log out
//
// A cookie holds nothing but a random id. All that is known of the visitor is the record under that id, so a
// session can be ended from anywhere: `kvd key delete -n sessions session:…`, or DEL by a Redis client.

const LIFETIME_SECONDS = 3600;

export default {
  async fetch(request, env) {
    const sessions = new Sessions(env.KV);
    const { pathname } = new URL(request.url);

    switch (`${request.method} ${pathname}`) {
      case "POST /login": {
        const name = (await request.formData()).get("name");
        if (!name) return new Response("Who are you?\n", { status: 400 });
        const id = await sessions.start({ name, since: new Date().toISOString() });
        return new Response(`Welcome, ${name}.\n`, { headers: { "Set-Cookie": cookie(id, LIFETIME_SECONDS) } });
      }
      case "GET /": {
        const session = await sessions.find(request);
        if (session === null) return new Response("Please log in.\n", { status: 401 });
        return Response.json({ name: session.name, since: session.since });
      }
      case "POST /logout": {
        await sessions.end(request);
        return new Response("Goodbye.\n", { headers: { "Set-Cookie": cookie("", 0) } });
      }
      default:
        return new Response("Not found\n", { status: 404 });
    }
  },
};

class Sessions {
  constructor(kv) {
    this.kv = kv;
  }

  async start(session) {
    const id = crypto.randomUUID();
    await this.#write(id, session);
    return id;
  }

  async find(request) {
    const id = idOf(request);
    if (id === null) return null;
    const { value, metadata } = await this.kv.getWithMetadata(`session:${id}`, "json");
    // To slide on, the record is written again; once half of its life is gone is often enough.
    if (value !== null && Date.now() > metadata.renewAt) await this.#write(id, value);
    return value;
  }

  async end(request) {
    const id = idOf(request);
    if (id !== null) await this.kv.delete(`session:${id}`);
  }

  async #write(id, session) {
    await this.kv.put(`session:${id}`, JSON.stringify(session), {
      expirationTtl: LIFETIME_SECONDS,
      metadata: { renewAt: Date.now() + (LIFETIME_SECONDS * 1000) / 2 },
    });
  }
}

function idOf(request) {
  return request.headers.get("Cookie")?.match(/(?:^|;\s*)session=([\w-]{36})(?:;|$)/)?.[1] ?? null;
}

// Behind HTTPS, add "; Secure".
function cookie(id, maxAge) {
  return `session=${id}; Path=/; Max-Age=${maxAge}; HttpOnly; SameSite=Lax`;
}
