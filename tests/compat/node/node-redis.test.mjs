// node-redis: RESP2 and RESP3, pipelines, transactions, scripts, pub/sub, scans, and its client-side cache.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { BasicClientSideCache, createClient, defineScript, RESP_TYPES, WatchError } from "redis";

const url = process.env.KVD_COMPAT_URL;

const addAndExpire = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "local n = redis.call('INCRBY', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2]) return n",
  parseCommand(parser, key, amount, milliseconds) {
    parser.pushKey(key);
    parser.push(String(amount), String(milliseconds));
  },
  transformReply: (reply) => reply,
});

async function until(condition, what) {
  const deadline = Date.now() + 10_000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

for (const RESP of [2, 3]) {
  describe(`RESP${RESP}`, () => {
    let client;

    before(async () => {
      client = createClient({ url, RESP, name: `compat-${RESP}`, scripts: { addAndExpire } });
      await client.connect();
      await client.flushAll();
    });

    after(() => client.close());

    test("the connection has the name that was asked for", async () => {
      assert.equal(await client.clientGetName(), `compat-${RESP}`);
    });

    test("text and binary values come back as they were", async () => {
      assert.equal(await client.set("name", "Zoë", { expiration: { type: "EX", value: 100 } }), "OK");
      assert.equal(await client.get("name"), "Zoë");
      assert.equal(await client.set("name", "x", { condition: "NX" }), null);
      const binary = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
      await client.set("binary", binary);
      const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
      assert.deepEqual(await buffers.get("binary"), binary);
      assert.deepEqual(await client.mGet(["name", "missing"]), ["Zoë", null]);
      assert.equal(await client.incrByFloat("float", 10.5), "10.5");
    });

    test("commands of one turn of the loop go out together", async () => {
      const values = await Promise.all(Array.from({ length: 5000 }, (_, number) => client.incrBy("sum", number)));
      assert.equal(values.at(-1), (4999 * 5000) / 2);
    });

    test("a transaction answers with all its replies", async () => {
      assert.deepEqual(await client.multi().set("a", "1").incr("a").get("a").exec(), ["OK", 2, "2"]);
    });

    test("a watched key that changes ends the transaction", async () => {
      const other = await client.duplicate().connect();
      await client.watch("balance");
      await other.set("balance", "2");
      await assert.rejects(client.multi().set("balance", "100").exec(), WatchError);
      assert.equal(await client.get("balance"), "2");
      await other.close();
    });

    test("a script is sent by hash, and in full when the server does not know it", async () => {
      await client.scriptFlush();
      assert.equal(await client.addAndExpire("scripted", 5, 60_000), 5);
      assert.equal(await client.addAndExpire("scripted", 2, 60_000), 7);
    });

    test("subscribers get messages of channels, patterns and shard channels", async () => {
      const subscriber = await client.duplicate().connect();
      const received = [];
      const listener = (message, channel) => received.push([channel, message]);
      await subscriber.subscribe("news", listener);
      await subscriber.pSubscribe("new*", listener);
      await subscriber.sSubscribe("shard", listener);
      assert.equal(await client.publish("news", "hello"), 2);
      assert.equal(await client.sPublish("shard", "one"), 1);
      await until(() => received.length === 3, "all three messages");
      assert.deepEqual(received, [["news", "hello"], ["news", "hello"], ["shard", "one"]]);
      await subscriber.unsubscribe();
      await subscriber.pUnsubscribe();
      await subscriber.sUnsubscribe();
      await subscriber.close();
    });

    test("a scan iterator finds every key once", async () => {
      await client.mSet(Array.from({ length: 700 }, (_, number) => [`scan:${number}`, "x"]));
      const found = [];
      for await (const keys of client.scanIterator({ MATCH: "scan:*", COUNT: 50 })) found.push(...keys);
      assert.equal(found.length, 700);
      assert.equal(new Set(found).size, 700);
    });

    test("INFO and CONFIG GET are understood", async () => {
      assert.match(await client.info("server"), /redis_version:/);
      assert.equal((await client.configGet("maxclients")).maxclients, "10000");
    });
  });
}

test("the client-side cache is told of foreign writes", async () => {
  const clientSideCache = new BasicClientSideCache({ maxEntries: 100 });
  const cached = await createClient({ url, RESP: 3, clientSideCache }).connect();
  const other = await createClient({ url }).connect();
  await other.set("price", "1");
  assert.equal(await cached.get("price"), "1");
  assert.equal(await cached.get("price"), "1");
  assert.equal(clientSideCache.stats().hitCount, 1);
  await other.set("price", "2");
  await until(async () => (await cached.get("price")) === "2", "the new value");
  await cached.close();
  await other.close();
});

test("a pool of connections shares the work", async () => {
  const { createClientPool } = await import("redis");
  const pool = await createClientPool({ url }, { minimum: 2, maximum: 5 }).connect();
  await pool.del("pooled");
  await Promise.all(Array.from({ length: 200 }, () => pool.incr("pooled")));
  assert.equal(await pool.get("pooled"), "200");
  await pool.close();
});
