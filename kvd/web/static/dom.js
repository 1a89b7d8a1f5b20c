// Elements, icons, dialogs, and words for numbers. Nothing here takes HTML as text.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("button", {class: "x", onclick: f}, "text", child, …). False and null children are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const PATHS = {
  overview: "M3 12h4l3-8 4 16 3-8h4",
  keys: "M8 12m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0M12 12h9m-3 0v4m-3-4v3",
  members: "M12 5m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M5 18m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M19 18m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M11 7l-5 9M13 7l5 9M7 18h10",
  tokens: "M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6zM9 12l2 2 4-4",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  search: "M11 11m-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0M15.5 15.5L20 20",
  back: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  out: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
}

export function button(label, onclick, { kind = "", iconName, ...rest } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, ...rest }, iconName && icon(iconName), label);
}

let count = 0;

/** Return a label with its control, tied together; the hint is read with the control. */
export function field(label, control, hint) {
  control.id ||= `field-${++count}`;
  const note = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** Say something to a screen reader. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Show a short message; a failure stays longer. */
export function toast(text, kind = "done") {
  const note = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "failed" ? 8000 : 3000);
}

/** Run what may fail; show how it failed. Returns whether it went well. */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error instanceof TypeError || error instanceof ReferenceError) console.error(error); // a bug of ours
    toast(error.message, "failed");
    return false;
  }
}

/** Open a dialog with fields; `submit` may throw, which is shown and keeps it open. */
export function openDialog({ title, content = [], action, kind = "primary", submit }) {
  const failure = h("p", { class: "failure", role: "alert" });
  const confirm = h("button", { class: `button ${kind}` }, action);
  const form = h(
    "form", {},
    h("h2", { id: "dialog-title" }, title), ...content, failure,
    h("div", { class: "row end" }, submit && button("Cancel", () => dialog.close()), confirm),
  );
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    try {
      await submit?.();
      dialog.close();
    } catch (error) {
      failure.textContent = error.message;
    } finally {
      confirm.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask before something that cannot be undone. With `word`, it must be typed. */
export function confirmDialog({ title, text, action, word, submit }) {
  const typed = word && h("input", { autocomplete: "off", spellcheck: "false", required: true });
  const content = [h("p", {}, text), typed && field(`Type “${word}” to confirm`, typed)];
  const checked = async () => {
    if (word && typed.value !== word) throw new Error("That is not what was asked for.");
    await submit();
  };
  return openDialog({ title, content: content.filter(Boolean), action, kind: "danger", submit: checked });
}

// --- words for numbers

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytesText(size) {
  if (size == null) return "–";
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(size) : size.toPrecision(3)} ${UNITS[unit]}`;
}

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const numberText = (number) => whole.format(number);
export const shortText = (number) => (number < 10 && number % 1 ? number.toFixed(1) : compact.format(Math.round(number)));
export const percentText = (part) => `${(part * 100).toFixed(part > 0.999 || part < 0.1 ? 0 : 1)}%`;

export function secondsText(seconds) {
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(seconds < 1e-5 ? 1 : 0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return spanText(seconds);
}

const SPANS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Return a span with its two largest units. */
export function spanText(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  const first = SPANS.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [unit, size] = SPANS[first];
  const below = SPANS[first + 1];
  const rest = below && Math.floor((seconds % size) / below[1]);
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${below[0]}` : ""}`;
}

export const momentText = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Return an element with the time that is left until a moment. */
export function expiryText(seconds) {
  if (seconds == null) return h("span", { class: "faint" }, "never");
  const left = seconds - Date.now() / 1000;
  return h("time", { title: momentText(seconds * 1000) }, left > 0 ? `in ${spanText(left)}` : "now");
}
