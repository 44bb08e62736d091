"use strict";
// Zooming into power traces, and opening a run's section when a link leads to it. Without this script the page shows
// the same traces as still drawings.
const PREFIXES = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
function text(value, unit, digits = 4) {
  if (value === 0) return `0 ${unit}`;
  const [factor, prefix] = PREFIXES.find(([size]) => Math.abs(value) >= size) || PREFIXES[PREFIXES.length - 1];
  return `${(value / factor).toPrecision(digits)}\u00a0${prefix}${unit}`;
}
function steps(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
  return found;
}
class Zoomer {
  constructor(root) {
    this.root = root;
    Object.assign(this, JSON.parse(root.dataset.settings));
    const bytes = Uint8Array.from(atob(root.dataset.values), (letter) => letter.charCodeAt(0));
    const words = new Uint16Array(bytes.buffer);
    this.buckets = words.length / 3;
    [this.lows, this.highs, this.means] = [0, 1, 2].map((k) => words.subarray(k * this.buckets, (k + 1) * this.buckets));
    this.first = 0;
    this.last = this.n;
    this.canvas = root.querySelector("canvas");
    this.said = root.querySelector("output");
    this.touches = new Map();
    this.listen();
    root.hidden = false;
    const still = root.parentElement.querySelector(".still");
    if (still) still.hidden = true;
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
  listen() {
    const acts = {in: () => this.scale(0.5), out: () => this.scale(2), left: () => this.move(-0.25),
      right: () => this.move(0.25), whole: () => this.show(0, this.n), next: () => this.region()};
    for (const button of this.root.querySelectorAll("button")) button.onclick = acts[button.dataset.act];
    const keys = {"+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", Home: "whole", n: "next"};
    this.canvas.onkeydown = (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      acts[keys[event.key]]();
    };
    this.canvas.onwheel = (event) => {
      // Only where the reader has gone to the drawing: a page that is scrolled past must not zoom.
      if (document.activeElement !== this.canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.scale(event.deltaY < 0 ? 0.8 : 1.25, this.at(event.offsetX));
    };
    this.canvas.ondblclick = (event) => this.scale(0.4, this.at(event.offsetX));
    this.canvas.onpointerdown = (event) => {
      this.touches.set(event.pointerId, event.offsetX);
      this.canvas.setPointerCapture(event.pointerId);
    };
    this.canvas.onpointerup = this.canvas.onpointercancel = (event) => this.touches.delete(event.pointerId);
    this.canvas.onpointermove = (event) => this.drag(event);
  }
  drag(event) {
    if (!this.touches.has(event.pointerId)) return;
    const old = [...this.touches.values()], width = this.last - this.first, pixels = this.canvas.clientWidth;
    this.touches.set(event.pointerId, event.offsetX);
    const now = [...this.touches.values()];
    if (now.length === 1) return this.show(this.first - (now[0] - old[0]) / pixels * width, null);
    const apart = (pair) => Math.max(8, Math.abs(pair[0] - pair[1]));
    this.scale(apart(old) / apart(now), this.at((now[0] + now[1]) / 2));
  }
  at(x) { return this.first + x / this.canvas.clientWidth * (this.last - this.first); }
  scale(factor, about = (this.first + this.last) / 2) {
    this.show(about + (this.first - about) * factor, about + (this.last - about) * factor);
  }
  move(share) { this.show(this.first + share * (this.last - this.first), null); }
  region() {
    if (!this.regions.length) return;
    const whole = this.last - this.first >= this.n, middle = (this.first + this.last) / 2;
    const [begin, end] = this.regions.find(([start]) => whole || start > middle) || this.regions[0];
    this.show(begin - 0.1 * (end - begin), end + 0.1 * (end - begin));
  }
  show(first, last) {
    const least = Math.max(4 * this.n / this.buckets, 4);
    const size = Math.min(this.n, Math.max(least, last === null ? this.last - this.first : last - first));
    if (last !== null) first += (last - first - size) / 2;
    this.first = Math.min(Math.max(0, first), this.n - size);
    this.last = this.first + size;
    this.draw();
  }
  draw() {
    const {canvas} = this, ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), colour = (name) => style.getPropertyValue(name);
    pen.scale(ratio, ratio);
    const begin = Math.floor(this.first / this.n * this.buckets), end = Math.ceil(this.last / this.n * this.buckets);
    const size = this.last - this.first, ampere = (word) => this.low + word / 65534 * this.span;
    let most = 0, least = 65534, sum = 0, count = 0;
    for (let b = begin; b < end; b++) {
      if (this.highs[b] === 65535) continue;
      most = Math.max(most, this.highs[b]);
      least = Math.min(least, this.lows[b]);
      sum += ampere(this.means[b]);
      count++;
    }
    const floor = Math.min(0, ampere(least)), top = (count ? ampere(most) : 1e-6) * 1.06 || 1e-6, foot = height - 20;
    const x = (sample) => (sample - this.first) / size * width, y = (value) => foot - (value - floor) / (top - floor) * foot;
    pen.fillStyle = colour("--shade");
    for (const [from, to] of this.regions)
      if (to > this.first && from < this.last) pen.fillRect(x(from), 0, Math.max(1, x(to) - x(from)), foot);
    pen.font = "12px system-ui, sans-serif";
    for (const value of steps(floor, top, 4)) {
      pen.fillStyle = colour("--line");
      pen.fillRect(0, y(value), width, 1);
      pen.fillStyle = colour("--soft");
      pen.fillText(text(value, "A", 3), 2, y(value) - 3);
    }
    pen.fillStyle = colour("--trace");
    let before = null;
    for (let b = begin; b < end; b++) {
      if (this.highs[b] === 65535) {
        before = null;
        continue;
      }
      const left = x(b * this.n / this.buckets), right = x((b + 1) * this.n / this.buckets);
      // Neighbours are joined: a step of the current is a line and not a gap.
      const own = [y(ampere(this.highs[b])), y(ampere(this.lows[b]))];
      const up = before ? Math.min(own[0], before[1]) : own[0], down = before ? Math.max(own[1], before[0]) : own[1];
      before = own;
      pen.fillRect(left, up, Math.max(1, right - left), Math.max(1.4, down - up));
    }
    pen.fillStyle = colour("--text");
    for (const [from, to, name] of this.regions)
      if (name && x(to) - x(from) > 60) pen.fillText(name, Math.max(2, x(from) + 3), 12, x(to) - x(from) - 6);
    pen.fillStyle = colour("--soft");
    const begins = this.t0 + this.first * this.dt, ends = this.t0 + this.last * this.dt;
    pen.textAlign = "center";
    for (const value of steps(begins, ends, Math.max(2, width / 160))) {
      const place = (value - begins) / (ends - begins) * width;
      if (place > 30 && place < width - 30) pen.fillText(text(value, "s", 5), place, height - 5);
    }
    const mean = count ? sum / count : 0;
    this.said.textContent = count
      ? `${text(begins, "s")} to ${text(ends, "s")}: ${text(ampere(least), "A", 3)} to ${text(ampere(most), "A", 3)}, ` +
        `mean ${text(mean, "A")}, about ${text(mean * this.volt * (ends - begins), "J", 3)}`
      : "all samples of this window were lost";
  }
}
const waiting = new IntersectionObserver((seen) => {
  for (const {isIntersecting, target} of seen) {
    if (!isIntersecting) continue;
    waiting.unobserve(target);
    new Zoomer(target.querySelector(".zoomer"));
  }
}, {rootMargin: "300px"});
for (const place of document.querySelectorAll(".power")) waiting.observe(place);
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  const section = target && target.closest("details");
  if (section) section.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
