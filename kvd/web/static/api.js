// Requests to the daemon. The token lives in this tab only, and goes with it.

const TOKEN = "kvd-token";

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/** Send a request; return the response. Throws `Failed`, with status 0 if nobody answered. */
export async function send(method, path, { query, body, headers } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const asked = new URLSearchParams(Object.entries(query ?? {}).filter(([, value]) => value !== "" && value != null));
  const target = asked.size ? `${path}?${asked}` : path;
  const all = { ...headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(target, { method, body, headers: all, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Failed(0, "The daemon does not answer.");
  }
  if (!response.ok) throw new Failed(response.status, await reasonOf(response));
  return response;
}

async function reasonOf(response) {
  try {
    const { errors } = await response.json();
    return errors[0].message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

/** Return {result, info} of an endpoint that answers in the envelope. */
export async function ask(method, path, options = {}) {
  const response = await send(method, path, options);
  const { result, result_info: info } = await response.json();
  return { result, info };
}

export const get = async (path, query) => (await ask("GET", path, { query })).result;

export async function sendJson(method, path, value) {
  const options = { body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
  return (await ask(method, path, options)).result;
}

export const namespacePath = (id) => `/api/namespaces/${encodeURIComponent(id)}`;

/** Write a value with all that belongs to it. `etag`: what must be there now; null: nothing may be there; undefined: no matter. */
export async function putValue(id, path, { bytes, metadata, expiration, ttl, etag }) {
  const headers = etag === undefined ? {} : etag === null ? { "If-None-Match": "*" } : { "If-Match": etag };
  let body = new Blob([bytes]);
  if (metadata !== "") {
    const form = new FormData();
    form.append("value", body, "value");
    form.append("metadata", metadata);
    body = form;
  }
  const query = { expiration, expiration_ttl: ttl };
  return (await ask("PUT", `${namespacePath(id)}/values/${path}`, { query, body, headers })).result;
}
