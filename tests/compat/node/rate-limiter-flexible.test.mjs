// rate-limiter-flexible: every consumption is one script; by ioredis and by node-redis.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import Redis from "ioredis";
import { RateLimiterQueue, RateLimiterRedis } from "rate-limiter-flexible";
import { createClient } from "redis";

const url = process.env.KVD_COMPAT_URL;
const clients = {
  ioredis: {
    open: async () => new Redis(url),
    close: (client) => client.quit(),
    options: {},
  },
  "node-redis": {
    open: () => createClient({ url }).connect(),
    close: (client) => client.close(),
    options: { useRedisPackage: true },
  },
};

for (const [name, { open, close, options }] of Object.entries(clients)) {
  describe(name, () => {
    let storeClient;

    before(async () => {
      storeClient = await open();
    });

    after(() => close(storeClient));

    const limiterOf = (keyPrefix, more) =>
      new RateLimiterRedis({ storeClient, keyPrefix: `${name}-${keyPrefix}`, points: 3, duration: 100, ...options, ...more });

    test("points are consumed until none is left", async () => {
      const limiter = limiterOf("plain");
      for (const left of [2, 1, 0]) assert.equal((await limiter.consume("ann")).remainingPoints, left);
      const refusal = await limiter.consume("ann").catch((error) => error);
      assert.equal(refusal.consumedPoints, 4);
      assert.ok(refusal.msBeforeNext > 50_000 && refusal.msBeforeNext <= 100_000);
      assert.equal((await limiter.consume("bob")).remainingPoints, 2);
    });

    test("points can be read, given, taken and reset", async () => {
      const limiter = limiterOf("points");
      await limiter.consume("ann", 2);
      assert.equal((await limiter.get("ann")).consumedPoints, 2);
      assert.equal((await limiter.reward("ann", 1)).consumedPoints, 1);
      assert.equal((await limiter.penalty("ann", 5)).consumedPoints, 6);
      assert.equal(await limiter.delete("ann"), true);
      assert.equal(await limiter.get("ann"), null);
    });

    test("who consumes too much is blocked", async () => {
      const limiter = limiterOf("block", { blockDuration: 500 });
      for (let count = 0; count < 3; count += 1) await limiter.consume("ann");
      const refusal = await limiter.consume("ann").catch((error) => error);
      assert.ok(refusal.msBeforeNext > 400_000);
      await limiter.block("bob", 200);
      await assert.rejects(limiter.consume("bob"), (refused) => refused.msBeforeNext > 100_000);
    });

    test("hits at the same moment are all counted", async () => {
      const limiter = limiterOf("many", { points: 50 });
      const outcomes = await Promise.allSettled(Array.from({ length: 80 }, () => limiter.consume("all")));
      assert.equal(outcomes.filter((outcome) => outcome.status === "fulfilled").length, 50);
    });

    test("a queue waits for the next window", async () => {
      const queue = new RateLimiterQueue(limiterOf("queue", { points: 2, duration: 1 }));
      assert.deepEqual(
        (await Promise.all([1, 2, 3].map(() => queue.removeTokens(1)))).map((left) => typeof left),
        ["number", "number", "number"],
      );
    });
  });
}
