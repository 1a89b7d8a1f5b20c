// The first page: what the daemon does now, in tiles and charts.

import { Chart } from "./charts.js";
import { bytesText, h, numberText, percentText, secondsText, shortText, spanText } from "./dom.js";

const CHARTS = [
  {
    title: "Operations a second",
    text: shortText,
    series: [{ name: "Redis", read: (s) => s.commands }, { name: "HTTP", read: (s) => s.requests }],
  },
  {
    title: "Latency",
    text: secondsText,
    series: [{ name: "99th percentile", read: (s) => s.p99 }, { name: "median", read: (s) => s.p50 }],
  },
  { title: "Reads that hit", text: percentText, ceiling: 1, series: [{ name: "hits", read: (s) => s.hits }] },
  {
    title: "Memory",
    text: bytesText,
    isBinary: true,
    series: [{ name: "process", read: (s) => s.memory }, { name: "record cache", read: (s) => s.cache }],
  },
  { title: "Disk", text: bytesText, isBinary: true, series: [{ name: "tables and blobs", read: (s) => s.disk }] },
  {
    title: "Traffic a second",
    text: bytesText,
    isBinary: true,
    series: [{ name: "sent", read: (s) => s.output }, { name: "received", read: (s) => s.input }],
  },
];

const TILES = [
  ["Keys", (f) => numberText(f.keys)],
  ["Connections", (f) => numberText(f.resp_clients + f.http_clients)],
  ["Running for", (f) => spanText(f.uptime_seconds)],
  ["Free disk", (f) => bytesText(f.disk_free_bytes)],
];

export function overview({ figures, session }) {
  const charts = CHARTS.map((each) => new Chart(each));
  const tiles = TILES.map(() => h("strong", {}, "–"));
  const state = h("span", { class: "pill" }, "…");
  const element = h(
    "section", { class: "page" },
    h("header", { class: "head" }, h("h1", { tabindex: "-1" }, "Overview"), state),
    h("dl", { class: "tiles" }, ...TILES.map(([name], index) => h("div", { class: "card" }, h("dt", {}, name), h("dd", {}, tiles[index])))),
    h("div", { class: "charts" }, ...charts.map((chart) => chart.element)),
    h("p", { class: "faint" }, `kvd ${session.version}, node ${session.node}`),
  );
  const onSample = (now, samples) => {
    TILES.forEach(([, read], index) => (tiles[index].textContent = read(now)));
    state.className = `pill ${now.is_writable ? "good" : "bad"}`;
    state.textContent = now.is_writable ? "takes reads and writes" : "refuses writes";
    charts.forEach((chart) => chart.draw(samples));
  };
  if (figures.last) onSample(figures.last, figures.samples);
  return { element, onSample };
}
