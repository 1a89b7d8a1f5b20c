// connect-redis: express-session's sessions in a store, through its middleware and through its own methods.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { RedisStore } from "connect-redis";
import session from "express-session";
import { createClient } from "redis";

let client;
let store;

before(async () => {
  client = await createClient({ url: process.env.KVD_COMPAT_URL }).connect();
  await client.flushAll();
  store = new RedisStore({ client, prefix: "web:", ttl: 100 });
});

after(() => client.close());

test("a visitor is recognised by the cookie", async () => {
  const middleware = session({ store, secret: "keyboard cat", resave: false, saveUninitialized: false });
  const server = createServer((request, response) =>
    middleware(request, response, () => {
      request.session.visits = (request.session.visits ?? 0) + 1;
      response.end(String(request.session.visits));
    }),
  );
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const address = `http://127.0.0.1:${server.address().port}/`;
    const first = await fetch(address);
    const cookie = first.headers.get("set-cookie").split(";")[0];
    assert.equal(await first.text(), "1");
    const second = await fetch(address, { headers: { cookie } });
    assert.equal(await second.text(), "2");
    assert.equal(await (await fetch(address)).text(), "1");
    const [key] = await client.keys("web:*");
    const ttl = await client.ttl(key);
    assert.ok(ttl > 0 && ttl <= 100);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

test("sessions are listed, counted, touched and cleared", async () => {
  await store.clear();
  for (const id of ["a", "b", "c"]) await store.set(id, { cookie: {}, id });
  assert.deepEqual((await store.ids()).sort(), ["a", "b", "c"]);
  assert.equal(await store.length(), 3);
  assert.equal((await store.all()).length, 3);
  await client.expire("web:a", 5);
  await store.touch("a", { cookie: {} });
  assert.ok((await client.ttl("web:a")) > 50);
  await store.destroy("b");
  assert.equal(await store.get("b"), null);
  await store.clear();
  assert.equal(await store.length(), 0);
});
