// redlock: locks by scripts, extended, released, and given up by who is not the owner.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Redis from "ioredis";
import Redlock from "redlock";

let redis;
let locks;
let impatient;

before(async () => {
  redis = new Redis(process.env.KVD_COMPAT_URL);
  await redis.flushall();
  locks = new Redlock([redis], { retryCount: 500, retryDelay: 10, retryJitter: 5 });
  impatient = new Redlock([redis], { retryCount: 0 });
});

after(() => redis.quit());

test("a lock excludes others until it is released", async () => {
  const lock = await locks.lock("door", 30_000);
  await assert.rejects(impatient.lock("door", 30_000), { name: "LockError" });
  await lock.unlock();
  await (await impatient.lock("door", 30_000)).unlock();
  assert.equal(await redis.exists("door"), 0);
});

test("a lock is extended by its owner only", async () => {
  const lock = await locks.lock("door", 1_000);
  const extended = await lock.extend(30_000);
  assert.ok((await redis.pttl("door")) > 10_000);
  await redis.set("door", "someone else");
  await assert.rejects(extended.extend(30_000), { name: "LockError" });
  await assert.rejects(extended.unlock(), { name: "LockError" });
  assert.equal(await redis.get("door"), "someone else");
  await redis.del("door");
});

test("several resources are locked together or not at all", async () => {
  const lock = await locks.lock(["a", "b"], 30_000);
  await assert.rejects(impatient.lock(["b", "c"], 30_000), { name: "LockError" });
  assert.equal(await redis.exists("c"), 0);
  await lock.unlock();
});

test("everyone who waits has the lock once, and alone", async () => {
  let holders = 0;
  let served = 0;
  const work = async () => {
    const lock = await locks.lock("queue", 30_000);
    holders += 1;
    assert.equal(holders, 1);
    await redis.ping();
    holders -= 1;
    served += 1;
    await lock.unlock();
  };
  await Promise.all(Array.from({ length: 10 }, work));
  assert.equal(served, 10);
});
