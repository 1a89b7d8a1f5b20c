// Small line charts as SVG: the last two minutes, a sample a second, one scale for all series of a chart.

import { h, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 110;
export const SAMPLES_MAX = 120;

/** A chart of `series` ([{name, read(sample)}]); `text` says a value in words. */
export class Chart {
  constructor({ title, series, text, ceiling, isBinary = false }) {
    Object.assign(this, { title, series, text, ceiling, isBinary });
    this.samples = [];
    this.lines = series.map((_, index) => svg("path", { class: `line s${index}`, fill: "none" }));
    this.area = svg("path", { class: "area" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const grid = [0.25, 0.5, 0.75].map((part) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }));
    this.plot = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      ...grid, this.area, ...this.lines, this.cursor,
    );
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerleave", () => this.#point(null));
    this.values = series.map(() => h("strong", {}, "–"));
    this.top = h("span", { class: "top", "aria-hidden": "true" });
    const legend = series.map(({ name }, index) => h("span", { class: `legend s${index}` }, h("i"), name, " ", this.values[index]));
    this.element = h(
      "figure", { class: "chart card" },
      h("figcaption", {}, h("h3", {}, title), h("div", { class: "legends" }, ...legend)),
      h("div", { class: "plot" }, this.plot, this.top),
    );
  }

  draw(samples) {
    this.samples = samples;
    const rows = this.series.map(({ read }) => samples.map(read));
    const most = Math.max(...rows.flat().filter((value) => value != null), 0);
    const top = this.ceiling ?? roundUp(most, this.isBinary);
    this.lines.forEach((line, index) => line.setAttribute("d", pathOf(rows[index], top)));
    this.area.setAttribute("d", areaOf(rows[0], top));
    this.top.textContent = this.text(top);
    this.#say(samples.length - 1);
    const words = this.series.map(({ name, read }) => `${name} ${this.#word(read(samples.at(-1) ?? {}))}`);
    this.plot.setAttribute("aria-label", `${this.title}: ${words.join(", ")}`);
  }

  #word(value) {
    return value == null ? "–" : this.text(value);
  }

  #say(index) {
    const sample = this.samples[index];
    if (sample) this.series.forEach(({ read }, at) => (this.values[at].textContent = this.#word(read(sample))));
  }

  #point(event) {
    const box = this.plot.getBoundingClientRect();
    const at = event && Math.round(((event.clientX - box.left) / box.width) * (SAMPLES_MAX - 1)) - (SAMPLES_MAX - this.samples.length);
    const isInside = event !== null && at >= 0 && at < this.samples.length;
    this.cursor.setAttribute("visibility", isInside ? "visible" : "hidden");
    if (isInside) {
      const x = xOf(at, this.samples.length);
      this.cursor.setAttribute("x1", x);
      this.cursor.setAttribute("x2", x);
    }
    this.#say(isInside ? at : this.samples.length - 1);
  }
}

const xOf = (index, count) => (((SAMPLES_MAX - count + index) / (SAMPLES_MAX - 1)) * WIDTH).toFixed(1);
const yOf = (value, top) => (HEIGHT - 2 - (Math.min(value, top) / top) * (HEIGHT - 8)).toFixed(1);

/** Return a path with gaps where there is no value. */
function pathOf(row, top) {
  let isDown = false;
  return row.map((value, index) => {
    if (value == null) {
      isDown = false;
      return "";
    }
    const step = `${isDown ? "L" : "M"}${xOf(index, row.length)} ${yOf(value, top)}`;
    isDown = true;
    return step;
  }).join("");
}

function areaOf(row, top) {
  if (!row.length || row.includes(null)) return "";
  return `${pathOf(row, top)}L${WIDTH} ${HEIGHT}L${xOf(0, row.length)} ${HEIGHT}Z`;
}

/** Return the next of 1, 2, 5, 10, … that is not below; for bytes the next power of two or half between two. */
function roundUp(value, isBinary) {
  if (value <= 0) return isBinary ? 1024 : 1;
  const power = isBinary ? 2 ** Math.floor(Math.log2(value)) : 10 ** Math.floor(Math.log10(value));
  const steps = isBinary ? [1, 1.5, 2] : [1, 2, 5, 10];
  return steps.map((step) => step * power).find((step) => step >= value * 0.999);
}
