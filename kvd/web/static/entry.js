// One key in the panel: its value in several forms, metadata and expiry; saved only over what was seen.

import { ask, get, namespacePath, putValue } from "./api.js";
import { attempt, button, bytesText, confirmDialog, field, h, icon, momentText, openDialog, toast } from "./dom.js";
import { formsOf, isJson, layOut, showForm } from "./forms.js";
import { download } from "./keys.js";

const NAMES = { text: "Text", json: "JSON", hex: "Hex", picture: "Picture" };
const METADATA_BYTES_MAX = 1024;
const UNITS = { minutes: 60, hours: 3600, days: 86400 };
const EMPTY = { name: "", size: 0, is_text: true, value: "", is_cut: false, etag: null, expires_at_ms: null, metadata_text: null };

/** Return the element for a key; for a new one if `path` is null. */
export async function openEntry(options) {
  const { id, path } = options;
  const details = path === null ? EMPTY : await get(`${namespacePath(id)}/keys/${path}`);
  return new Entry(options, details).element;
}

const bytesOf = (details) =>
  details.is_text ? new TextEncoder().encode(details.value) : Uint8Array.from(atob(details.value), (letter) => letter.charCodeAt(0));

class Entry {
  constructor(options, details) {
    Object.assign(this, options, { details });
    this.isNew = this.path === null;
    this.isReadOnly = !this.canWrite || details.is_cut;
    this.bytes = bytesOf(details);
    this.build();
    this.show(this.forms()[0]);
  }

  build() {
    const { details } = this;
    this.name = h("input", { value: this.prefix ?? "", required: true, spellcheck: "false", autocapitalize: "off", "data-first": true });
    this.tabs = h("div", { class: "tabs", role: "group", "aria-label": "Show the value as" });
    this.holder = h("div", { class: "holder" });
    this.size = h("span", { class: "faint" });
    this.metadata = h("textarea", { rows: 3, spellcheck: "false", readonly: !this.canWrite, value: details.metadata_text && isJson(details.metadata_text) ? layOut(details.metadata_text) : (details.metadata_text ?? "") });
    this.metadataBefore = this.metadata.value;
    this.expiry = expiryField(details.expires_at_ms, !this.canWrite);
    const save = h("button", { class: "button primary" }, this.isNew ? "Add" : "Save");
    this.element = h(
      "form", { class: "entry" },
      this.head(), this.isNew && field("Key", this.name),
      h("div", { class: "row between" }, this.tabs, this.size),
      details.is_cut && h("p", { class: "note" }, "This value is large: its first MiB is shown. Replace it by a file, or download it whole."),
      this.holder, this.canWrite && this.filePicker(),
      field("Metadata", this.metadata, `JSON, up to ${METADATA_BYTES_MAX} bytes`), this.expiry.element,
      h("div", { class: "row" }, this.canWrite && save, ...this.tools()),
      !this.isNew && h("p", { class: "faint" }, `Written ${momentText(details.written_at_ms)} on node ${details.origin.slice(0, 8)}`),
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      attempt(() => this.save());
    });
  }

  head() {
    const title = this.isNew ? "New key" : this.details.name;
    const close = h("button", { type: "button", class: "button quiet round", "aria-label": "Close", "data-close": true, onclick: () => this.close() }, icon("close"));
    return h("header", { class: "row between" }, h("h2", { tabindex: "-1", "data-first": !this.isNew }, title), close);
  }

  tools() {
    if (this.isNew) return [];
    const remove = () => confirmDialog({ title: "Delete this key?", text: this.details.name, action: "Delete the key", submit: () => this.remove() });
    return [
      button("Download", () => attempt(() => download(this.id, this.path, this.details.name)), { kind: "quiet" }),
      this.canWrite && button("Delete…", remove, { kind: "quiet danger-text" }),
    ];
  }

  filePicker() {
    const input = h("input", { type: "file", class: "sr-only" });
    input.addEventListener("change", async () => {
      if (!input.files[0]) return;
      this.bytes = new Uint8Array(await input.files[0].arrayBuffer());
      this.isReadOnly = this.bytes.length > 1 << 20;
      this.isReplaced = true;
      this.show(this.forms()[0]);
    });
    return h("label", { class: "button quiet file" }, input, "Take the value from a file…");
  }

  forms() {
    return formsOf(this.bytes);
  }

  /** Show the bytes in a form; what was edited in the form before goes along. */
  show(form) {
    const all = this.forms();
    if (!all.includes(form)) form = all[0];
    this.form = form;
    const order = Object.keys(NAMES).filter((name) => all.includes(name));
    this.tabs.replaceChildren(...order.map((name) => button(NAMES[name], () => attempt(() => this.turn(name)), { kind: "tab", "aria-pressed": String(name === form) })));
    this.shown = form ? showForm(form, this.bytes, this.isReadOnly) : { element: h("p", { class: "note" }, "This value is too large to be shown."), read: () => this.bytes };
    this.holder.replaceChildren(this.shown.element);
    this.size.textContent = bytesText(this.details.is_cut && !this.isReplaced ? this.details.size : this.bytes.length);
  }

  turn(form) {
    this.bytes = this.shown.read();
    this.show(form);
    this.tabs.querySelector('[aria-pressed="true"]').focus();
  }

  async save({ isForced = false } = {}) {
    const path = this.isNew ? encodeURIComponent(this.name.value) : this.path;
    if (this.details.is_cut && !this.isReplaced) throw new Error("Choose a file to replace this value.");
    const metadata = this.metadata.value === this.metadataBefore ? (this.details.metadata_text ?? "") : compactJson(this.metadata.value);
    const content = { bytes: this.shown.read(), metadata, ...this.expiry.read(), etag: isForced ? undefined : this.details.etag };
    try {
      await putValue(this.id, path, content);
    } catch (error) {
      if (error.status !== 412) throw error;
      this.askAboutConflict();
      return;
    }
    toast(this.isNew ? "The key was added." : "Saved.");
    await this.changed(path);
  }

  askAboutConflict() {
    const text = this.isNew ? "There is a key of this name already. Its value would be lost." : "Somebody has changed this key since you opened it. Their value would be lost.";
    openDialog({ title: "Write over it?", content: [h("p", {}, text)], action: "Write over it", kind: "danger", submit: () => this.save({ isForced: true }) });
  }

  async remove() {
    await ask("DELETE", `${namespacePath(this.id)}/values/${this.path}`);
    toast("The key was deleted.");
    await this.changed(null);
  }
}

function compactJson(text) {
  if (!text.trim()) return "";
  if (!isJson(text)) throw new Error("The metadata is no valid JSON.");
  const compact = layOut(text).replace(/\n */g, "").replace(/("(?:[^"\\]|\\.)*"): /gs, "$1:");
  if (new TextEncoder().encode(compact).length > METADATA_BYTES_MAX) throw new Error(`The metadata is longer than ${METADATA_BYTES_MAX} bytes.`);
  return compact;
}

/** Return {element, read()} for when a key expires: never, after a time, or at a moment. */
function expiryField(expiresAtMs, isReadOnly) {
  const choice = h("select", { disabled: isReadOnly }, ...[["never", "never"], ["after", "after…"], ["at", "at…"]].map(([value, name]) => h("option", { value }, name)));
  const amount = h("input", { type: "number", min: 1, step: 1, value: 1, "aria-label": "Time until expiry" });
  const unit = h("select", { "aria-label": "Unit" }, ...Object.keys(UNITS).map((name) => h("option", { value: name }, name)));
  const moment = h("input", { type: "datetime-local", step: 1, "aria-label": "Moment of expiry", disabled: isReadOnly, value: localText(expiresAtMs ?? Date.now() + 3_600_000) });
  const after = h("span", { class: "row" }, amount, unit);
  const draw = () => {
    after.hidden = choice.value !== "after";
    moment.hidden = choice.value !== "at";
  };
  choice.addEventListener("change", draw);
  choice.value = expiresAtMs === null ? "never" : "at";
  draw();
  const read = () => {
    if (choice.value === "after") return { ttl: Math.round(Number(amount.value) * UNITS[unit.value]) };
    return choice.value === "at" ? { expiration: Math.ceil(new Date(moment.value).getTime() / 1000) } : {};
  };
  const labelled = field("Expires", choice);
  labelled.append(after, moment);
  return { element: labelled, read };
}

/** Return a moment as an input of local time wants it. */
function localText(ms) {
  const shifted = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
