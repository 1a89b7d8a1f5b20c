// The keys of a namespace: by prefix or by search, in pages; one of them open beside the list.

import { ask, get, namespacePath, send } from "./api.js";
import { announce, attempt, button, bytesText, confirmDialog, expiryText, field, h, numberText, toast } from "./dom.js";
import { openEntry } from "./entry.js";

const PAGE = 100;
// A search looks at a few thousand keys a request; so many requests are made before it asks to go on.
const REQUESTS_MAX = 25;

export async function keys({ go, id, prefix = "", text = "" }) {
  const view = new KeysView(go, await get(namespacePath(id)), prefix, text);
  await view.load("");
  return { element: view.element, onKey: (event) => view.onKey(event) };
}

class KeysView {
  constructor(go, namespace, prefix, text) {
    Object.assign(this, { go, namespace, text });
    this.prefix = prefix;
    this.canWrite = namespace.right !== "read";
    this.cursors = [""]; // of the pages up to the one that is shown
    this.following = "";
    this.#build();
  }

  #build() {
    const { namespace } = this;
    this.prefixInput = h("input", { type: "search", value: this.prefix, placeholder: "user:", spellcheck: "false", autocapitalize: "off" });
    this.textInput = h("input", { type: "search", value: this.text, placeholder: "in keys and metadata", spellcheck: "false", "data-key": "/" });
    const form = h(
      "form", { class: "filters", role: "search" },
      field("Prefix", this.prefixInput), field("Search", this.textInput),
      h("button", { class: "button" }, "Show"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#show();
    });
    this.body = h("tbody");
    this.count = h("p", { class: "faint", role: "status" });
    this.back = button("Previous", () => this.#turn(-1), { kind: "quiet", iconName: "back" });
    this.next = button("Next", () => this.#turn(1), { kind: "quiet", iconName: "next" });
    this.list = h("div", { class: "list" }, form, this.#table(), h("div", { class: "row pager" }, this.back, this.count, this.next), this.#sweep());
    this.panel = h("aside", { class: "panel card", "aria-label": "Key", hidden: true });
    const add = this.canWrite && button("New key", () => this.open(null), { kind: "primary", iconName: "plus", "data-key": "n" });
    const crumb = h("nav", { "aria-label": "Path", class: "crumb" }, h("a", { href: "#/namespaces" }, "Namespaces"), " /");
    this.element = h(
      "section", { class: "page" },
      h("header", { class: "head" }, h("div", {}, crumb, h("h1", { tabindex: "-1" }, namespace.title)), add),
      h("div", { class: "split" }, this.list, this.panel),
    );
  }

  #table() {
    const heads = [["Key", ""], ["Size", "number"], ["Expires", ""], ["Metadata", "wide"]];
    const cells = heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name));
    return h("div", { class: "card scroll" }, h("table", { class: "rows keys" }, h("thead", {}, h("tr", {}, ...cells)), this.body));
  }

  #sweep() {
    if (!this.canWrite || !this.prefix || this.text) return null;
    const remove = async () => {
      const path = `/kvd/v1/namespaces/${encodeURIComponent(this.namespace.id)}/keys`;
      const { result } = await ask("DELETE", path, { query: { prefix: this.prefix } });
      toast(`${numberText(result.deleted)} keys were deleted.`);
      this.load("");
    };
    const text = "Every key that begins so will be gone, also those on other pages, on every node of the cluster.";
    const confirm = () => confirmDialog({ title: `Delete all keys under “${this.prefix}”?`, text, action: "Delete them", word: this.prefix, submit: remove });
    return button("Delete all keys with this prefix…", confirm, { kind: "quiet danger-text" });
  }

  #show() {
    const query = new URLSearchParams();
    if (this.prefixInput.value) query.set("prefix", this.prefixInput.value);
    if (this.textInput.value) query.set("text", this.textInput.value);
    this.go(`#/namespaces/${this.namespace.id}${query.size ? `?${query}` : ""}`);
  }

  #turn(step) {
    if (step > 0) this.cursors.push(this.following);
    else this.cursors.pop();
    attempt(() => this.load(this.cursors.at(-1)));
  }

  /** Show the page that a cursor begins. */
  async load(cursor) {
    if (!cursor) this.cursors = [""];
    const { rows, following } = await this.#read(cursor);
    this.following = following;
    this.body.replaceChildren(...rows.map((row) => this.#row(row)));
    this.back.hidden = this.cursors.length < 2;
    this.next.hidden = !following;
    const from = (this.cursors.length - 1) * PAGE;
    const words = rows.length ? (this.text ? `${rows.length} found${following ? " so far" : ""}` : `${numberText(from + 1)} to ${numberText(from + rows.length)}`) : "No keys here.";
    this.count.textContent = words;
    announce(words);
  }

  async #read(cursor) {
    const path = `${namespacePath(this.namespace.id)}/${this.text ? "search" : "keys"}`;
    const rows = [];
    for (let request = 0; request < REQUESTS_MAX; request += 1) {
      const query = { prefix: this.prefix, text: this.text, cursor, limit: PAGE - rows.length };
      const { result, info } = await ask("GET", path, { query });
      rows.push(...result);
      cursor = info.cursor;
      if (!cursor || rows.length >= PAGE) break;
    }
    return { rows, following: cursor };
  }

  #row(row) {
    const metadata = row.metadata === undefined ? "" : JSON.stringify(row.metadata);
    const name = h("button", { type: "button", class: "link key", "data-path": row.path, onclick: () => this.open(row.path) }, row.name);
    return h(
      "tr", {},
      h("td", {}, name),
      h("td", { class: "number", "data-label": "Size" }, bytesText(row.size)),
      h("td", { "data-label": "Expires" }, expiryText(row.expiration)),
      h("td", { class: "wide" }, metadata && h("code", { class: "meta", title: metadata }, metadata)),
    );
  }

  /** Open a key in the panel; null begins a new one. */
  async open(path) {
    this.#mark(path);
    await attempt(async () => {
      const close = () => this.close(path);
      const changed = async (now) => {
        await this.load(this.cursors.at(-1));
        if (now === null) close();
        else await this.open(now);
      };
      const entry = await openEntry({ id: this.namespace.id, path, prefix: this.prefix, canWrite: this.canWrite, close, changed, reopen: () => this.open(path) });
      this.panel.replaceChildren(entry);
      this.panel.hidden = false;
      this.element.classList.add("has-panel");
      entry.querySelector("[data-first]")?.focus();
    });
  }

  close(path) {
    this.panel.hidden = true;
    this.panel.replaceChildren();
    this.element.classList.remove("has-panel");
    this.#mark(null);
    const row = [...this.body.querySelectorAll("button.key")].find((each) => each.dataset.path === path);
    (row ?? this.prefixInput).focus();
  }

  #mark(path) {
    for (const each of this.body.querySelectorAll("button.key")) {
      const isOpen = each.dataset.path === path;
      each.closest("tr").classList.toggle("open", isOpen);
      each.toggleAttribute("aria-current", isOpen);
    }
  }

  onKey(event) {
    if (event.key === "Escape" && !this.panel.hidden) this.panel.querySelector("[data-close]").click();
    const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
    const all = [...this.body.querySelectorAll("button.key")];
    const at = all.indexOf(document.activeElement);
    if (!step || (at < 0 && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    all[Math.min(Math.max(at + step, 0), all.length - 1)]?.focus();
  }
}

/** Save a value as a file. */
export async function download(id, path, name) {
  const response = await send("GET", `${namespacePath(id)}/values/${path}`);
  const url = URL.createObjectURL(await response.blob());
  h("a", { href: url, download: name.replace(/[/\\]/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
