// The service behind the gateway: it believes what the gateway says.

export default {
  async fetch(request) {
    return Response.json({
      path: new URL(request.url).pathname,
      consumer: request.headers.get("X-Consumer"),
      sawToken: request.headers.has("Authorization"),
    });
  },
};
