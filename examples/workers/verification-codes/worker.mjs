// Codes that prove an e-mail address: six digits, ten minutes, five attempts, good once.
//
//   curl -d email=ada@example.org localhost:8787/send            the "mail" appears where the Worker runs
//   curl -d email=ada@example.org -d code=123456 localhost:8787/check
//
// A code that nobody uses disappears by itself. Attempts are counted in the same record and keep its expiration:
// guessing does not buy time. (The code is kept as it is: a hash of six digits would hide nothing.)

const LIFETIME_SECONDS = 600;
const ATTEMPTS = 5;

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (request.method !== "POST") return new Response("Not found\n", { status: 404 });
    const form = await request.formData();
    const email = form.get("email")?.trim().toLowerCase();
    if (!email?.includes("@")) return new Response("Which address?\n", { status: 400 });

    switch (pathname) {
      case "/send":
        await send(env, email);
        return new Response(`A code is on its way to ${email}.\n`, { status: 202 });
      case "/check":
        return (await check(env.KV, email, form.get("code") ?? ""))
          ? new Response("Verified.\n")
          : new Response("This code is wrong, used, or too old.\n", { status: 403 });
      default:
        return new Response("Not found\n", { status: 404 });
    }
  },
};

async function send(env, email) {
  const code = randomDigits();
  const expiration = Math.floor(Date.now() / 1000) + LIFETIME_SECONDS;
  await write(env.KV, email, { code, attempts: 0, expiration });
  await env.MAIL.fetch("http://mail/", { method: "POST", body: JSON.stringify({ to: email, code }) });
}

async function check(kv, email, code) {
  const record = await kv.get(keyOf(email), "json");
  if (record === null || record.attempts >= ATTEMPTS) return false;
  if (record.code === code) {
    await kv.delete(keyOf(email));
    return true;
  }
  record.attempts += 1;
  // KV takes no life of less than a minute: what is left of the last one counts as over.
  if (record.expiration - Date.now() / 1000 > 61) await write(kv, email, record);
  else await kv.delete(keyOf(email));
  return false;
}

function write(kv, email, record) {
  return kv.put(keyOf(email), JSON.stringify(record), { expiration: record.expiration });
}

function keyOf(email) {
  return `code:${email}`;
}

// Numbers beyond the last whole million are drawn again, so that every code is as likely as any other.
function randomDigits() {
  const [number] = crypto.getRandomValues(new Uint32Array(1));
  return number < 4_294_000_000 ? String(number % 1_000_000).padStart(6, "0") : randomDigits();
}
