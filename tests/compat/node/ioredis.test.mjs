// ioredis: connection, pipelines, transactions, scripts as commands, pub/sub, scan streams, auto-pipelining.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { once } from "node:events";
import Redis from "ioredis";

const url = process.env.KVD_COMPAT_URL;
let redis;

before(async () => {
  redis = new Redis(url);
  await once(redis, "ready");
  await redis.flushall();
});

after(() => redis.quit());

test("becomes ready after its handshake and ready check", () => {
  assert.equal(redis.status, "ready");
});

test("text and binary values come back as they were", async () => {
  assert.equal(await redis.set("name", "Zoë", "EX", 100), "OK");
  assert.equal(await redis.get("name"), "Zoë");
  assert.equal(await redis.set("name", "x", "NX"), null);
  const binary = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await redis.set("binary", binary);
  assert.deepEqual(await redis.getBuffer("binary"), binary);
  assert.deepEqual(await redis.mget("name", "missing"), ["Zoë", null]);
});

test("a database number in the options selects it", async () => {
  const other = new Redis(url, { db: 9 });
  await other.set("only-here", "9");
  assert.equal(await redis.get("only-here"), null);
  await other.quit();
});

test("a pipeline answers in order, errors in their place", async () => {
  const replies = await redis.pipeline().set("text", "abc").incr("text").get("text").exec();
  assert.deepEqual(replies[0], [null, "OK"]);
  assert.match(replies[1][0].message, /^ERR value is not an integer or out of range/);
  assert.deepEqual(replies[2], [null, "abc"]);
});

test("ten thousand commands in one pipeline", async () => {
  const pipeline = redis.pipeline();
  for (let number = 0; number < 10_000; number += 1) pipeline.set(`key:${number}`, number).get(`key:${number}`);
  const replies = await pipeline.exec();
  assert.equal(replies.length, 20_000);
  assert.deepEqual(replies[19_999], [null, "9999"]);
});

test("auto-pipelining gathers what one turn of the loop sends", async () => {
  const gathering = new Redis(url, { enableAutoPipelining: true });
  const values = await Promise.all(Array.from({ length: 500 }, (_, number) => gathering.incrby("sum", number)));
  assert.equal(values.at(-1), (499 * 500) / 2);
  await gathering.quit();
});

test("a transaction answers with all its replies", async () => {
  await redis.del("counter");
  assert.deepEqual(await redis.multi().incr("counter").incrby("counter", 5).exec(), [[null, 1], [null, 6]]);
});

test("a watched key that changes ends the transaction", async () => {
  const other = new Redis(url);
  await redis.watch("balance");
  await other.set("balance", "2");
  assert.equal(await redis.multi().set("balance", "100").exec(), null);
  assert.equal(await redis.get("balance"), "2");
  await other.quit();
});

test("a defined command is a script, loaded once", async () => {
  await redis.script("FLUSH");
  redis.defineCommand("addAndExpire", {
    numberOfKeys: 1,
    lua: "local n = redis.call('INCRBY', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2]) return n",
  });
  assert.equal(await redis.addAndExpire("scripted", 5, 60_000), 5);
  assert.equal(await redis.addAndExpire("scripted", 2, 60_000), 7);
  assert.ok((await redis.pttl("scripted")) > 0);
  const replies = await redis.pipeline().addAndExpire("scripted", 1, 60_000).get("scripted").exec();
  assert.deepEqual(replies, [[null, 8], [null, "8"]]);
});

test("subscribers get messages of channels and patterns", async () => {
  const subscriber = new Redis(url);
  assert.equal(await subscriber.subscribe("news"), 1);
  assert.equal(await subscriber.psubscribe("new?"), 2);
  const message = once(subscriber, "message");
  const patternMessage = once(subscriber, "pmessage");
  assert.equal(await redis.publish("news", "hello"), 2);
  assert.deepEqual(await message, ["news", "hello"]);
  assert.deepEqual(await patternMessage, ["new?", "news", "hello"]);
  // By name: without one, ioredis 6 waits in vain in RESP3, with redis-server as well.
  await subscriber.unsubscribe("news");
  await subscriber.punsubscribe("new?");
  assert.equal(await subscriber.ping(), "PONG");
  await subscriber.quit();
});

test("a scan stream finds every key once", async () => {
  await redis.mset(Object.fromEntries(Array.from({ length: 700 }, (_, number) => [`scan:${number}`, "x"])));
  const found = [];
  for await (const keys of redis.scanStream({ match: "scan:*", count: 50 })) found.push(...keys);
  assert.equal(found.length, 700);
  assert.equal(new Set(found).size, 700);
});

test("an unknown command leaves the connection in use", async () => {
  await assert.rejects(redis.call("NO.SUCH", "x"), /ERR unknown command 'NO.SUCH'/);
  assert.equal(await redis.ping(), "PONG");
});
