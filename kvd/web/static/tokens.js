// API tokens: who may ask over HTTP. A token's text is shown once, when it is made.

import { ask, get, sendJson, setToken } from "./api.js";
import { button, confirmDialog, field, h, momentText, openDialog, toast } from "./dom.js";

const DAY_SECONDS = 86400;

export async function tokens({ session, go }) {
  const [found, spaces] = await Promise.all([get("/api/tokens"), get("/api/namespaces")]);
  const named = spaces.filter((each) => !each.is_database);
  const titles = new Map(named.map((each) => [each.id, each.title]));
  const refresh = () => go("#/tokens");
  const add = button("New token", () => create(session, named, refresh), { kind: "primary", iconName: "plus", "data-key": "n" });
  const note = session.is_open && h("p", { class: "card note" }, "There is no token yet, and no password: whoever is on this machine may do everything, nobody else anything. The first token ends that, so make it one with the right “admin”.");
  return {
    element: h(
      "section", { class: "page" },
      h("header", { class: "head" }, h("h1", { tabindex: "-1" }, "Tokens"), add), note,
      found.length > 0 && table(found.map((token) => row(token, titles, refresh))),
    ),
  };
}

function table(rows) {
  const heads = ["Name", "Right", "Namespaces", "Expires", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Actions")));
  return h("div", { class: "card scroll" }, h("table", { class: "rows" }, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows)));
}

function row(token, titles, refresh) {
  const name = token.name || token.id;
  const revoke = () => confirmDialog({
    title: `Revoke “${name}”?`,
    text: "Whoever uses it is refused from now on.",
    action: "Revoke the token",
    submit: async () => {
      await ask("DELETE", `/api/tokens/${token.id}`);
      toast("The token was revoked.");
      refresh();
    },
  });
  return h(
    "tr", {},
    h("td", {}, h("span", { class: "strong" }, name), h("code", { class: "id" }, token.id)),
    h("td", { "data-label": "Right" }, token.right),
    h("td", { "data-label": "Namespaces" }, token.namespaces ? token.namespaces.map((id) => titles.get(id) ?? id).join(", ") : "all"),
    h("td", { "data-label": "Expires" }, token.expires_ms ? momentText(token.expires_ms) : "never"),
    h("td", { class: "number actions" }, button("Revoke", revoke, { kind: "quiet danger-text", "aria-label": `Revoke ${name}` })),
  );
}

function create(session, named, refresh) {
  const name = h("input", { autocomplete: "off", maxlength: 100 });
  const right = h("select", {}, ...["read", "write", "admin"].map((word) => h("option", { value: word }, word)));
  const scope = h("select", {}, h("option", { value: "" }, "all namespaces"), ...named.map((each) => h("option", { value: each.id }, each.title)));
  const days = h("input", { type: "number", min: 1, max: 36500, placeholder: "never" });
  const submit = async () => {
    const wanted = { name: name.value, right: right.value };
    if (scope.value) wanted.namespaces = [scope.value];
    if (days.value) wanted.expires_in_seconds = Number(days.value) * DAY_SECONDS;
    const { token } = await sendJson("POST", "/api/tokens", wanted);
    // The first token ends what everybody may do; whoever has made it goes on with it.
    const isOurs = session.is_open && right.value === "admin" && !scope.value;
    if (isOurs) setToken(token);
    showOnce(token, isOurs ? () => location.reload() : refresh);
  };
  openDialog({ title: "New token", content: [field("Name", name), field("Right", right), field("For", scope), field("Days until it expires", days)], action: "Create", submit });
}

function showOnce(token, refresh) {
  const text = h("input", { readonly: true, value: token, class: "mono", onfocus: () => text.select() });
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(token);
    toast("Copied.");
  });
  const content = [h("p", {}, "Keep it now: it is not shown again."), field("Token", text), navigator.clipboard && copy];
  openDialog({ title: "The new token", content: content.filter(Boolean), action: "Done" }).addEventListener("close", refresh);
}
