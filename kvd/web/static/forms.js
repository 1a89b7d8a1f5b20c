// A value in its forms: text, JSON, hex, picture. Each form shows bytes and gives bytes back.

import { h } from "./dom.js";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const LINE = 16;
// As hex a value is three times as long, and each byte of it is on the page.
const HEX_BYTES_MAX = 64 << 10;

/** Return the text of bytes, null if they are no UTF-8. */
export function textOf(bytes) {
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

const TOKENS = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs;

/** Lay a JSON text out anew. Its tokens stay as they are, so numbers of any length survive. */
export function layOut(text) {
  let depth = 0;
  let out = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  const tokens = text.match(TOKENS) ?? [];
  tokens.forEach((token, index) => {
    const isEmpty = (token === "{" && tokens[index + 1] === "}") || (token === "[" && tokens[index + 1] === "]");
    if (token === "{" || token === "[") {
      depth += 1;
      out += isEmpty ? token : token + line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      out += out.endsWith("{") || out.endsWith("[") ? token : line() + token;
    } else if (token === ",") out += `,${line()}`;
    else out += token === ":" ? ": " : token;
  });
  return out;
}

const MAGIC = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
  ["image/bmp", [0x42, 0x4d]],
  ["image/x-icon", [0x00, 0x00, 0x01, 0x00]],
];

/** Return the type of a picture by its first bytes, null if it is none that a browser shows. */
export function pictureType(bytes) {
  const found = MAGIC.find(([, magic]) => magic.every((byte, index) => bytes[index] === byte));
  if (found) return found[0];
  const head = String.fromCharCode(...bytes.subarray(0, 256));
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return "image/webp";
  if (head.slice(4, 12) === "ftypavif") return "image/avif";
  return /^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg[\s>]/s.test(head) ? "image/svg+xml" : null;
}

/** The forms in which bytes can be shown, the best first. */
export function formsOf(bytes) {
  const text = textOf(bytes);
  const forms = [];
  if (pictureType(bytes)) forms.push("picture");
  if (text !== null && /^\s*[[{]/.test(text) && isJson(text)) forms.push("json");
  if (text !== null) forms.push("text", ...(forms.includes("json") ? [] : ["json"]));
  if (bytes.length <= HEX_BYTES_MAX) forms.push("hex");
  return forms;
}

/** Return {element, read()}: `read` returns the bytes, and throws for what is none. */
export function showForm(form, bytes, isReadOnly) {
  return { text: textForm, json: jsonForm, hex: hexForm, picture: pictureForm }[form](bytes, isReadOnly);
}

function textForm(bytes, isReadOnly, text = textOf(bytes), check = () => {}) {
  const area = h("textarea", { class: "value", rows: 14, spellcheck: "false", readonly: isReadOnly, "aria-label": "Value", value: text });
  // A text area knows one kind of line end; what was not touched is given back as it came.
  const before = area.value;
  const read = () => {
    if (area.value === before) return bytes;
    check(area.value);
    const ends = /\r\n/.test(text) && !/[^\r]\n/.test(text) ? area.value.replaceAll("\n", "\r\n") : area.value;
    return new TextEncoder().encode(ends);
  };
  return { element: area, read };
}

function jsonForm(bytes, isReadOnly) {
  const text = textOf(bytes);
  return textForm(bytes, isReadOnly, isJson(text) ? layOut(text) : text, (now) => {
    try {
      JSON.parse(now);
    } catch (error) {
      throw new Error(`The value is no valid JSON: ${error.message}`);
    }
  });
}

function hexForm(bytes, isReadOnly) {
  const area = h("textarea", { class: "value", spellcheck: "false", readonly: isReadOnly, "aria-label": "Value as hexadecimal bytes", value: hexOf(bytes), wrap: "off" });
  const offsets = h("pre", { "aria-hidden": "true", class: "faint" });
  const letters = h("pre", { "aria-hidden": "true" });
  const draw = () => {
    const lines = area.value.split("\n");
    area.rows = Math.max(lines.length, 2);
    offsets.textContent = lines.map((_, index) => (index * LINE).toString(16).padStart(6, "0")).join("\n");
    letters.textContent = lines.map(lettersOf).join("\n");
  };
  area.addEventListener("input", draw);
  draw();
  return { element: h("div", { class: "hex" }, offsets, area, letters), read: () => bytesOfHex(area.value) };
}

function hexOf(bytes) {
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0"));
  return digits.map((pair, index) => pair + ((index + 1) % LINE && index + 1 < digits.length ? " " : "\n")).join("").trimEnd();
}

const lettersOf = (line) =>
  line.trim().split(/\s+/).filter(Boolean).map((pair) => {
    const code = Number.parseInt(pair, 16);
    return code > 31 && code < 127 ? String.fromCharCode(code) : "·";
  }).join("");

function bytesOfHex(text) {
  const digits = text.replace(/\s+/g, "");
  if (!/^([0-9a-f]{2})*$/i.test(digits)) throw new Error("Hexadecimal bytes are pairs of 0–9 and a–f.");
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

function pictureForm(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: pictureType(bytes) }));
  const size = h("figcaption", { class: "faint" });
  const image = h("img", { src: url, alt: "The value as a picture" });
  image.addEventListener("load", () => {
    size.textContent = `${pictureType(bytes)}, ${image.naturalWidth} × ${image.naturalHeight}`;
    URL.revokeObjectURL(url);
  });
  image.addEventListener("error", () => (size.textContent = "The picture is damaged."));
  return { element: h("figure", { class: "picture" }, image, size), read: () => bytes };
}
