// Stands for a mail provider: what it is given, it prints, and shows again when asked.
//
// A real one would be an `external` service in workerd.capnp.

const outbox = [];

export default {
  async fetch(request) {
    if (request.method === "POST") {
      const mail = await request.json();
      console.log(`To: ${mail.to} | Your code is ${mail.code}.`);
      outbox.push(mail);
    }
    return Response.json(outbox);
  },
};
