// All namespaces: counts, and making, renaming and deleting them.

import { ask, get, namespacePath, sendJson } from "./api.js";
import { button, confirmDialog, field, h, numberText, openDialog, percentText, toast } from "./dom.js";

export async function namespaces({ session, go }) {
  const isAdmin = session.right === "admin";
  const found = await get("/api/namespaces");
  const refresh = () => go("#/namespaces");
  const add = isAdmin && button("New namespace", () => askTitle("New namespace", "", "Create", async (title) => {
    const made = await sendJson("POST", "/api/namespaces", { title });
    toast(`“${title}” was made.`);
    go(`#/namespaces/${made.id}`);
  }), { kind: "primary", iconName: "plus", "data-key": "n" });
  const rows = found.map((each) => rowOf(each, refresh));
  return {
    element: h(
      "section", { class: "page" },
      h("header", { class: "head" }, h("h1", { tabindex: "-1" }, "Namespaces"), add),
      rows.length ? tableOf(rows) : h("p", { class: "empty card" }, "There are no namespaces yet, and no keys."),
    ),
  };
}

function tableOf(rows) {
  const heads = ["Title", "Keys", "With expiry", "Reads that hit", ""];
  const cells = heads.map((text, index) => h("th", { scope: "col", class: index && "number" }, text || h("span", { class: "sr-only" }, "Actions")));
  return h("div", { class: "card scroll" }, h("table", { class: "rows" }, h("thead", {}, h("tr", {}, ...cells)), h("tbody", {}, ...rows)));
}

function rowOf(each, refresh) {
  const reads = each.hits + each.misses;
  const rename = () => askTitle(`Rename “${each.title}”`, each.title, "Rename", async (title) => {
    await sendJson("PUT", namespacePath(each.id), { title });
    refresh();
  });
  const remove = () => confirmDialog({
    title: `Delete “${each.title}”?`,
    text: `The namespace and its ${numberText(each.keys)} keys will be gone, on every node of the cluster.`,
    action: "Delete the namespace",
    word: each.title,
    submit: async () => {
      await ask("DELETE", namespacePath(each.id));
      toast(`“${each.title}” was deleted.`);
      refresh();
    },
  });
  const place = each.group ? h("span", { class: "pill" }, each.is_carried ? `group ${each.group}` : `group ${each.group}, on other nodes`) : null;
  const title = each.is_carried ? h("a", { href: `#/namespaces/${each.id}`, class: "strong" }, each.title) : h("span", { class: "strong" }, each.title);
  const number = (count) => (each.is_carried ? numberText(count) : "–");
  const canChange = each.right === "admin" && !each.is_database;
  return h(
    "tr", {},
    h("td", {}, title, " ", place, h("code", { class: "id" }, each.id)),
    h("td", { class: "number", "data-label": "Keys" }, number(each.keys)),
    h("td", { class: "number", "data-label": "With expiry" }, number(each.expires)),
    h("td", { class: "number", "data-label": "Reads that hit" }, reads ? percentText(each.hits / reads) : "–"),
    h("td", { class: "number actions" }, canChange && button("Rename", rename, { kind: "quiet", "aria-label": `Rename ${each.title}` }),
      canChange && each.is_carried && button("Delete", remove, { kind: "quiet danger-text", "aria-label": `Delete ${each.title}` })),
  );
}

function askTitle(title, before, action, submit) {
  const input = h("input", { value: before, required: true, maxlength: 512, autocomplete: "off" });
  openDialog({ title, content: [field("Title", input)], action, submit: () => submit(input.value) });
}
