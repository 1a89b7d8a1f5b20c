// An A/B test: everybody gets one of two pages, and gets the same one ever after.
//
//   curl -i -c jar -b jar localhost:8787/          A or B; the cookie remembers
//   curl -i -c jar -b jar localhost:8787/          the same again
//   kvd key put -n ab-test experiment '{"name": "greeting", "weights": {"a": 10, "b": 90}}'
//
// What is tested is a record, and so are the pages: an experiment is begun, turned and ended without a deployment.
// New weights change what newcomers see. Another name begins anew: choices made under the old one no longer count. If
// the winner is found, give it all the weight.

const CHOICE_SECONDS = 90 * 24 * 3600;

export default {
  async fetch(request, env) {
    const experiment = await env.KV.get("experiment", "json");
    if (experiment === null) return new Response("There is nothing to test.\n", { status: 503 });

    const variant = earlierChoice(request, experiment) ?? draw(experiment.weights);
    const page = await env.KV.get(`page:${variant}`, "stream");
    if (page === null) return new Response(`There is no page ${variant}.\n`, { status: 500 });

    return new Response(page, {
      headers: {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "private",
        "Set-Cookie": `${experiment.name}=${variant}; Path=/; Max-Age=${CHOICE_SECONDS}; SameSite=Lax`,
        "X-Variant": variant,
      },
    });
  },
};

// A choice counts as long as its variant does; with weight 0 it is out.
function earlierChoice(request, { name, weights }) {
  const cookies = (request.headers.get("Cookie") ?? "").split(/;\s*/);
  const choice = cookies.find((cookie) => cookie.startsWith(`${name}=`))?.slice(name.length + 1);
  return weights[choice] > 0 ? choice : undefined;
}

function draw(weights) {
  const variants = Object.entries(weights);
  let left = Math.random() * variants.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [variant, weight] of variants) {
    left -= weight;
    if (left < 0) return variant;
  }
  return variants.at(-1)[0];
}
