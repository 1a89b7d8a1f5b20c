// The members of the cluster, asked every two seconds.

import { get } from "./api.js";
import { bytesText, h, numberText, secondsText } from "./dom.js";

const PERIOD_MS = 2000;
const GOOD = new Set(["alive", "ready"]);

export async function members() {
  const body = h("div", { class: "members" });
  const standing = h("span", { class: "pill" });
  const before = new Map();
  const load = async () => {
    const found = await get("/api/members");
    standing.textContent = found.is_alone ? "a single node" : found.standing;
    standing.className = `pill ${GOOD.has(found.standing) ? "good" : "bad"}`;
    body.replaceChildren(...found.members.map((each) => card(each, before)));
  };
  await load();
  const timer = setInterval(() => document.hidden || load().catch(() => {}), PERIOD_MS);
  const element = h("section", { class: "page" }, h("header", { class: "head" }, h("h1", { tabindex: "-1" }, "Members"), standing), body);
  return { element, leave: () => clearInterval(timer) };
}

function card(member, before) {
  const isGood = member.is_self || (GOOD.has(member.state) && member.is_linked);
  const rates = traffic(member, before);
  const facts = member.is_self ? [] : [
    ["Link", member.is_linked ? "up" : "down"],
    ["Round trip", member.rtt_ms == null ? "–" : secondsText(member.rtt_ms / 1000)],
    ["Clock", member.offset_ms == null ? "–" : `${member.offset_ms >= 0 ? "+" : ""}${member.offset_ms.toFixed(1)} ms`],
    ["Lag", member.lag_dots ? `${numberText(member.lag_dots)} writes, ${secondsText(member.lag_seconds)}` : "none"],
    ["Waiting to be sent", bytesText(member.queue_bytes)],
    ["Sent", `${bytesText(member.sent_bytes)}${rates.sent}`],
    ["Received", `${bytesText(member.received_bytes)}${rates.received}`],
  ];
  const rest = [["Address", member.addresses?.join(", ")], ["Zone", member.zone], ["Software", member.software]].filter(([, value]) => value);
  return h(
    "article", { class: "card member" },
    h("header", { class: "row between" }, h("h2", {}, h("code", {}, member.node.slice(0, 8)), member.is_self && " this node"),
      h("span", { class: `pill ${isGood ? "good" : "bad"}` }, member.state)),
    h("dl", { class: "facts" }, ...[...facts, ...rest].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
  );
}

function traffic(member, before) {
  const last = before.get(member.node);
  const now = { at: Date.now(), sent: member.sent_bytes, received: member.received_bytes };
  before.set(member.node, now);
  const rate = (name) => (last && now[name] >= last[name] ? ` (${bytesText((now[name] - last[name]) / ((now.at - last.at) / 1000))}/s)` : "");
  return { sent: rate("sent"), received: rate("received") };
}
