// A chart of the last minutes or hours: inline SVG in its actual size, and a text legend with the same content.

import { h } from "./dom.js";
import { duration, hour } from "./format.js";

/** Seconds that a chart spans at least, however short the time since the first answer. */
const SHORTEST = 60;
/** Up to this many seconds, the time of the day does not matter. */
const LIVE = 600;

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 168;
const MARGIN = { top: 10, right: 2, bottom: 22, left: 48 };

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** `series` are {label, tone}, `stacked` stacks them, `format` formats a value. */
export class Chart {
  #series;
  #stacked;
  #format;
  #svg = svg("svg", { role: "img", height: HEIGHT });
  #values;
  #when = h("span", { class: "when" });
  #points = [];
  #now = 0;
  #span = SHORTEST;
  #range = SHORTEST;
  #pointed = null;

  constructor(title, series, { stacked = false, format, note }) {
    this.#series = series;
    this.#stacked = stacked;
    this.#format = format;
    this.#values = series.map(() => h("span", { class: "value" }, "–"));
    const legend = h("ul", { class: "legend" }, series.map(({ label, tone }, index) =>
      h("li", {}, h("span", { class: `swatch ${tone}`, "aria-hidden": "true" }), label, " ", this.#values[index])));
    this.title = title;
    this.element = h("figure", { class: "panel chart" },
      h("figcaption", {}, h("h2", {}, title), h("span", { class: "hint" }, note), this.#when), this.#svg, legend);
    this.#svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#svg.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  /** Show points {at, values}, the right edge being `now`; the time shown grows with them, up to `range` seconds. */
  show(points, now, range) {
    this.#points = points.filter(({ at }) => at >= now - range);
    this.#now = now;
    this.#range = range;
    this.#span = Math.min(range, Math.max(SHORTEST, now - (this.#points[0]?.at ?? now)));
    this.#draw();
  }

  #point(x) {
    this.#pointed = x;
    this.#draw();
  }

  #draw() {
    const width = this.#svg.clientWidth;
    if (width === 0) return;
    const points = this.#stacked ? this.#points.map(stack) : this.#points;
    const top = nice(Math.max(0, ...points.flatMap(({ values }) => values.filter(Number.isFinite))));
    const x = (at) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * (1 - (this.#now - at) / this.#span);
    const y = (value) => HEIGHT - MARGIN.bottom - (HEIGHT - MARGIN.top - MARGIN.bottom) * (value / top);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.replaceChildren(
      ...this.#axes(width, top, x, y),
      ...this.#series.map((_, index) => this.#shape(points, index, x, y)).reverse(),
    );
    this.#tell(x);
  }

  #axes(width, top, x, y) {
    const levels = [0, top / 2, top].flatMap((value) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, this.#format(value)),
    ]);
    const began = this.#range > LIVE ? `, ${hour(this.#now - this.#span)}` : "";
    const ends = [[this.#span, "start", `${duration(this.#span)} ago${began}`], [0, "end", "now"]];
    const times = ends.map(([ago, anchor, text]) =>
      svg("text", { x: x(this.#now - ago), y: HEIGHT - 4, "text-anchor": anchor }, text));
    return [...levels, ...times];
  }

  #shape(points, index, x, y) {
    const { tone } = this.#series[index];
    const upper = path(points.map(({ at, values }) => [x(at), y(values[index])]));
    const line = svg("path", { class: `line ${tone}`, d: upper });
    if (!this.#stacked) return line;
    const below = points.map(({ at, values }) => [x(at), y(index === 0 ? 0 : values[index - 1])]).reverse();
    const area = points.length > 1 ? `${upper}L${below.map((point) => point.join(",")).join("L")}Z` : "";
    return svg("g", {}, svg("path", { class: `area ${tone}`, d: area }), line);
  }

  /** Write the values of the last point, or of the one below the pointer, into the legend. */
  #tell(x) {
    let point = this.#points.at(-1);
    if (this.#pointed !== null && point) {
      const distance = ({ at }) => Math.abs(x(at) - this.#pointed);
      point = this.#points.reduce((best, each) => (distance(each) < distance(best) ? each : best));
      const at = x(point.at);
      this.#svg.append(svg("line", { class: "cursor", x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    }
    const values = this.#series.map((_, index) => (point ? this.#format(point.values[index]) : "–"));
    values.forEach((text, index) => { this.#values[index].textContent = text; });
    const ago = point && Math.max(0, Math.round(this.#now - point.at));
    this.#when.textContent = point && this.#pointed !== null ? `${hour(point.at)}, ${duration(ago)} ago` : "";
    const words = this.#series.map(({ label }, index) => `${label} ${values[index]}`).join(", ");
    this.#svg.setAttribute("aria-label", `${this.title}: ${words}`);
  }
}

function stack({ at, values }) {
  let sum = 0;
  return { at, values: values.map((value) => (sum += value)) };
}

/** A line through points, interrupted where there is no value. */
function path(points) {
  let drawn = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (Number.isFinite(y)) {
      drawn += `${pen}${x.toFixed(1)},${y.toFixed(1)}`;
      pen = "L";
    } else {
      pen = "M";
    }
  }
  return drawn;
}

/** The next higher of 1, 2, 4, 6, 8 and 10 times a power of ten: half of it is easily read too. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].find((step) => step * power >= value * 0.999) * power;
}
