// A slow API: two seconds for the weather, which is never the same twice.

export default {
  async fetch(request, env) {
    await scheduler.wait(Number(env.API_SECONDS ?? 2) * 1000);
    const place = new URL(request.url).pathname.split("/").at(-1);
    if (place === "atlantis") return new Response("no such place\n", { status: 404 });
    return Response.json({ place, degrees: Math.floor(Math.random() * 40), at: new Date().toISOString() });
  },
};
