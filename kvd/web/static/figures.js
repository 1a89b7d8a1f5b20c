// The daemon's figures, asked once a second while the page is seen: counters become rates between two answers.

import { get } from "./api.js";
import { SAMPLES_MAX } from "./charts.js";

const PERIOD_MS = 1000;
// After a longer gap the rates would be averages of what nobody looked at.
const GAP_MS = 10_000;

export class Figures {
  constructor(onSample, onFailure) {
    Object.assign(this, { onSample, onFailure });
    this.samples = [];
    this.last = null;
    this.timer = null;
  }

  start() {
    this.timer ??= setTimeout(() => this.#tick(), 0);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  async #tick() {
    try {
      if (!document.hidden) this.#take(await get("/api/figures"));
    } catch (error) {
      this.last = null;
      this.onFailure(error);
    }
    if (this.timer !== null) this.timer = setTimeout(() => this.#tick(), PERIOD_MS);
  }

  #take(now) {
    const before = this.last;
    this.last = now;
    const seconds = before && (now.at_ms - before.at_ms) / 1000;
    const isUsable = before && seconds > 0 && seconds * 1000 < GAP_MS && now.commands >= before.commands;
    if (isUsable) {
      this.samples.push(sampleOf(before, now, seconds));
      if (this.samples.length > SAMPLES_MAX) this.samples.shift();
    }
    this.onSample(now, this.samples);
  }
}

function sampleOf(before, now, seconds) {
  const rate = (name) => (now[name] - before[name]) / seconds;
  const calls = differences(before.command_histogram, now.command_histogram);
  const requests = differences(before.http_histogram, now.http_histogram);
  const all = calls.map((count, index) => count + (requests[index] ?? 0));
  const reads = now.hits - before.hits + now.misses - before.misses;
  return {
    commands: rate("commands"),
    requests: rate("http_requests"),
    p50: percentile(all, 0.5),
    p99: percentile(all, 0.99),
    hits: reads > 0 ? (now.hits - before.hits) / reads : null,
    memory: now.memory_bytes,
    cache: now.storage.cache_bytes,
    disk: now.storage.engine_sst_bytes + now.storage.engine_blob_bytes,
    input: rate("input_bytes"),
    output: rate("output_bytes"),
  };
}

const differences = (before, now) => now.map((count, index) => count - (before[index] ?? 0));

/** Return seconds: within a bucket (from 2^(i-1) to 2^i nanoseconds) the calls are taken to lie evenly. */
export function percentile(buckets, part) {
  const wanted = buckets.reduce((sum, count) => sum + count, 0) * part;
  if (wanted <= 0) return null;
  let seen = 0;
  for (const [index, count] of buckets.entries()) {
    if (count && seen + count >= wanted) {
      const low = index ? 2 ** (index - 1) : 0;
      return (low + (2 ** index - low) * ((wanted - seen) / count)) / 1e9;
    }
    seen += count;
  }
  return null;
}
