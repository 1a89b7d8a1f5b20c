// The page: login, navigation, and one view at a time. A view is {element, onSample?, onKey?, leave?}.

import { get, hasToken, setToken } from "./api.js";
import { announce, button, field, h, icon, openDialog, toast } from "./dom.js";
import { Figures } from "./figures.js";
import { keys } from "./keys.js";
import { members } from "./members.js";
import { namespaces } from "./namespaces.js";
import { overview } from "./overview.js";
import { tokens } from "./tokens.js";

const PAGES = [
  { name: "overview", title: "Overview", view: overview, may: (session) => session.right !== null },
  { name: "namespaces", title: "Namespaces", icon: "keys", view: namespaces, may: () => true },
  { name: "members", title: "Members", view: members, may: (session) => session.right !== null },
  { name: "tokens", title: "Tokens", view: tokens, may: (session) => session.right === "admin" },
];
const SHORTCUTS = [["/", "search the keys"], ["n", "new key, namespace or token"], ["j, k, arrows", "next and previous key"], ["Enter", "open the key"], ["Esc", "close the key"], ["g, then o n m t", "go to overview, namespaces, members, tokens"], ["?", "this list"]];
const app = document.getElementById("app");
const state = { session: null, view: null, figures: null, turn: 0, isGoing: false };

async function begin() {
  try {
    state.session = await get("/api/session");
  } catch (error) {
    login(error.status === 401 ? "" : error.message);
    return;
  }
  build();
  if (state.session.right !== null) startFigures();
  await show();
}

// --- login

function login(failure) {
  document.title = "kvd";
  const token = h("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false", name: "token" });
  const alert = h("p", { class: "failure", role: "alert" }, failure || (hasToken() ? "This token is not accepted." : ""));
  const form = h(
    "form", { class: "card login" },
    h("img", { src: "/static/icon.svg", alt: "", width: 44, height: 44 }), h("h1", {}, "kvd"),
    field("API token", token, "Made by “kvd token create”. It is kept until this tab is closed."), alert,
    h("button", { class: "button primary" }, "Log in"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(token.value.trim());
    begin();
  });
  app.className = "center";
  app.replaceChildren(h("main", { id: "main" }, form));
  setToken(null);
  token.focus();
}

function logout(failure = "") {
  state.figures?.stop();
  state.view?.leave?.();
  Object.assign(state, { session: null, view: null, figures: null });
  setToken(null);
  login(failure);
}

// --- frame

function build() {
  const links = PAGES.filter((page) => page.may(state.session)).map((page) =>
    h("a", { href: `#/${page.name}`, "data-page": page.name }, icon(page.icon ?? page.name), h("span", {}, page.title)));
  const out = hasToken() && button("Log out", () => logout(), { kind: "quiet", iconName: "out" });
  const foot = h("div", { class: "foot" }, h("span", { class: "faint" }, state.session.name), out, button("Keyboard: ?", help, { kind: "quiet hint" }));
  const brand = h("a", { href: "#/", class: "brand" }, h("img", { src: "/static/icon.svg", alt: "", width: 28, height: 28 }), "kvd");
  state.main = h("main", { id: "main", tabindex: "-1" });
  app.className = "frame";
  app.replaceChildren(h("nav", { class: "side", "aria-label": "Pages" }, brand, h("div", { class: "links" }, ...links), foot), state.main);
}

function startFigures() {
  let isLost = false;
  const onSample = (now, samples) => {
    if (isLost) toast("The daemon answers again.");
    isLost = false;
    state.view?.onSample?.(now, samples);
  };
  const onFailure = (error) => {
    if (error.status === 401) logout("Please log in again.");
    else if (!isLost) toast(error.message, "failed");
    isLost = true;
  };
  state.figures = new Figures(onSample, onFailure);
  state.figures.start();
}

function help() {
  const rows = SHORTCUTS.map(([key, text]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)));
  openDialog({ title: "Keyboard", content: [h("dl", { class: "facts" }, ...rows)], action: "Close" });
}

// --- views

/** Go to an address; when it is the present one, show it anew. */
function go(address) {
  if (location.hash === address) show();
  else location.hash = address;
}

async function show() {
  if (!state.session) return;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const pages = PAGES.filter((each) => each.may(state.session));
  const page = pages.find((each) => each.name === name) ?? pages[0];
  const turn = (state.turn += 1);
  const asked = { ...Object.fromEntries(new URLSearchParams(query)), session: state.session, figures: state.figures, go, id };
  let view;
  try {
    view = await (page.name === "namespaces" && id ? keys : page.view)(asked);
  } catch (error) {
    if (error.status === 401) return logout("Please log in again.");
    view = { element: h("section", { class: "page" }, h("p", { class: "empty card", role: "alert" }, error.message)) };
  }
  if (turn === state.turn) put(view, page);
  else view.leave?.();
}

function put(view, page) {
  state.view?.leave?.();
  const isFirst = state.view === null;
  state.view = view;
  state.main.replaceChildren(view.element);
  window.scrollTo(0, 0);
  for (const link of document.querySelectorAll("[data-page]")) {
    if (link.dataset.page === page.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = view.element.querySelector("h1");
  document.title = `${heading?.textContent ?? page.title} – kvd`;
  announce(document.title);
  if (!isFirst) heading?.focus({ preventScroll: true });
}

// --- keyboard

function onKey(event) {
  const isTyping = event.target.matches("input, textarea, select");
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (!state.session || !isPlain || document.querySelector("dialog[open]")) return;
  if (isTyping && event.key !== "Escape") return;
  const page = state.isGoing && PAGES.find((each) => each.name.startsWith(event.key) && each.may(state.session));
  state.isGoing = event.key === "g";
  if (page) return go(`#/${page.name}`);
  if (event.key === "?") return help();
  const target = document.querySelector(`main [data-key="${CSS.escape(event.key)}"]`);
  if (!target) return state.view?.onKey?.(event);
  event.preventDefault();
  if (target.matches("input")) target.focus();
  else target.click();
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main")?.focus();
});
window.addEventListener("hashchange", show);
document.addEventListener("keydown", onKey);
begin();
