// Runs a Worker in miniflare, with miniflare's own KV in memory:
//
//   node miniflare.mjs NODE_MODULES WORKER PORT VALUE        the key "hot" holds VALUE
//
// The socket leads to the Worker directly, without the proxy that miniflare puts before it for developers.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, worker, port, value] = process.argv.slice(2);
const { Miniflare } = createRequire(`${modules}/`)("miniflare");

const miniflare = new Miniflare({
  modules: true,
  script: readFileSync(worker, "utf8"),
  compatibilityDate: "2025-06-01",
  kvNamespaces: ["KV"],
  unsafeDirectSockets: [{ host: "127.0.0.1", port: Number(port) }],
});
await (await miniflare.getKVNamespace("KV")).put("hot", value);
