// The space-time diagram: lanes, and what a canvas shows of them in a window of time. It draws
// what is visible, and densities where single events would touch.

const AXIS = 30; // pixels on top, for the times
const LANE_MIN = 26;
const LANE_MAX = 120;
const DOTS_MAX = 14000; // single events on the screen; lanes with more than their part are densities
const ARROWS_MAX = 3000; // messages on the screen
const LANDMARKS_MAX = 300; // events of a kind this rare keep their mark where the rest is a density
const WINDOW_MIN = 4; // microseconds

const COLOURS = [
  "canvas", "ink", "muted", "faint", "ghost", "concurrent", "rule", "accent", "alarm", "past", "future", "past-band", "future-band",
  "call-0", "call-1", "call-2", "call-3", "call-4", "other", "beat", "density",
];

class Diagram {
  constructor(canvas, trace) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.bars = document.createElement("canvas").getContext("2d");
    this.trace = trace;
    this.sprites = new Map();
    this.scroll = 0;
    this.t0 = 0;
    this.t1 = 1;
    this.lists = { shown: trace.all, matched: trace.all, messages: trace.messages, terms: [] };
    this.selected = -1;
    this.hovered = -1;
    this.ghosts = true;
    this.span = -1;
    this.groupCalls();
    this.resize();
  }

  /** The most frequent calls get a colour each; heartbeats stay in the background. */
  groupCalls() {
    const { calls, callTotals, kinds, sendKinds, receiveKinds } = this.trace;
    this.callColour = new Array(calls.length).fill("other");
    this.byCount = calls.map((_, c) => c).sort((a, b) => callTotals[b] - callTotals[a]);
    let next = 0;
    for (const c of this.byCount) {
      if (/beat|ping/i.test(calls[c])) this.callColour[c] = "beat";
      else if (next < 5 && !kinds.includes(calls[c])) this.callColour[c] = `call-${next++}`;
    }
    const rare = new Set();
    this.trace.kindTotals.forEach((total, kind) => {
      if (total <= LANDMARKS_MAX && !sendKinds[kind] && !receiveKinds[kind]) rare.add(kind);
    });
    this.landmarks = [];
    for (let i = 0; i < this.trace.size; i++) {
      if (rare.has(this.trace.kind[i]) || this.trace.level[i] <= 1) this.landmarks.push(i);
    }
    this.landmarkTimes = Float64Array.from(this.landmarks, (i) => this.trace.at[i]);
  }

  theme() {
    const probe = document.createElement("i");
    document.body.append(probe);
    this.colours = {};
    for (const name of COLOURS) {
      probe.style.color = `var(--${name})`;
      this.colours[name] = getComputedStyle(probe).color;
    }
    this.font = getComputedStyle(document.body).fontFamily;
    probe.remove();
    this.sprites.clear();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    this.ratio = window.devicePixelRatio || 1;
    this.width = Math.max(1, clientWidth);
    this.height = Math.max(1, clientHeight);
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.sprites.clear();
    this.theme();
  }

  layout(lanes) {
    this.lanes = lanes;
    const room = this.height - AXIS;
    this.laneHeight = Math.max(LANE_MIN, Math.min(LANE_MAX, room / Math.max(1, lanes.length)));
    this.laneOf = new Int32Array(this.trace.processes.length).fill(-1);
    lanes.forEach((lane, n) => lane.members.forEach((p) => (this.laneOf[p] = n)));
    this.scrollTo(this.scroll);
  }

  get scrollMax() {
    return Math.max(0, this.lanes.length * this.laneHeight - (this.height - AXIS));
  }

  scrollTo(y) {
    this.scroll = Math.max(0, Math.min(this.scrollMax, y));
  }

  x(t) {
    return ((t - this.t0) / (this.t1 - this.t0)) * this.width;
  }

  time(x) {
    return this.t0 + (x / this.width) * (this.t1 - this.t0);
  }

  y(lane) {
    return AXIS + (lane + 0.5) * this.laneHeight - this.scroll;
  }

  yOf(p) {
    return this.y(this.laneOf[p]);
  }

  laneVisible(lane) {
    const y = this.y(lane);
    return lane >= 0 && y > AXIS - this.laneHeight && y < this.height + this.laneHeight;
  }

  /** The event to take for a pointer: the nearest in the lane, of those that match if there is one. */
  pick(x, y, reach) {
    const n = Math.floor((y - AXIS + this.scroll) / this.laneHeight);
    if (y < AXIS || n < 0 || n >= this.lanes.length) return -1;
    let [best, distance] = [-1, reach];
    for (const list of this.ghosts ? [this.lists.matched, this.lists.shown] : [this.lists.matched]) {
      for (const p of this.lanes[n].members) {
        const i = list.nearest(p, this.time(x));
        if (i < 0) continue;
        const away = Math.abs(this.x(this.trace.at[i]) - x);
        if (away <= distance) [best, distance] = [i, away];
      }
      if (best >= 0) return best;
    }
    return best;
  }

  /** The cone of the selected event, or else of the one under the pointer. */
  get cone() {
    const event = this.selected >= 0 ? this.selected : this.hovered;
    if (event < 0) return null;
    if (this.lastCone?.event !== event) this.lastCone = this.trace.causality.cone(event);
    return this.lastCone;
  }

  draw() {
    const began = performance.now();
    const { context: g, ratio, colours } = this;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.fillStyle = colours.canvas;
    g.fillRect(0, 0, this.width, this.height);
    const cone = this.cone;
    this.stats = { dots: 0, densities: 0, arrows: 0 };
    g.save();
    g.beginPath();
    g.rect(0, AXIS, this.width, this.height - AXIS);
    g.clip();
    this.drawGrid();
    if (cone) this.drawBands(cone);
    this.drawLines();
    this.plan();
    this.drawDensities(cone);
    this.drawSpan();
    this.drawArrows(cone);
    this.drawDots(cone);
    this.drawLandmarks(cone);
    this.drawMarks();
    this.drawScrollbar();
    g.restore();
    this.drawAxis();
    this.drawMillis = performance.now() - began;
  }

  ticks() {
    const span = this.t1 - this.t0;
    const rough = (span / this.width) * 120;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const ticks = [];
    for (let t = Math.ceil(this.t0 / step) * step; t <= this.t1; t += step) ticks.push(t);
    return { ticks, step };
  }

  drawGrid() {
    const { context: g, colours } = this;
    g.strokeStyle = colours.rule;
    g.lineWidth = 1;
    g.beginPath();
    for (const t of this.ticks().ticks) {
      const x = Math.round(this.x(t)) + 0.5;
      g.moveTo(x, AXIS);
      g.lineTo(x, this.height);
    }
    // A rule between hosts, so that incarnations of one stay together.
    this.lanes.forEach((lane, n) => {
      if (!lane.first || n === 0) return;
      const y = Math.round(this.y(n) - this.laneHeight / 2) + 0.5;
      g.moveTo(0, y);
      g.lineTo(this.width, y);
    });
    g.stroke();
  }

  drawAxis() {
    const { context: g, colours } = this;
    const { ticks, step } = this.ticks();
    g.fillStyle = colours.canvas;
    g.fillRect(0, 0, this.width, AXIS);
    g.fillStyle = colours.rule;
    g.fillRect(0, AXIS - 1, this.width, 1);
    g.fillStyle = colours.muted;
    g.font = `11.5px ${this.font}`;
    g.textBaseline = "middle";
    g.textAlign = "left";
    for (const t of ticks) g.fillText(instant(t, step, this.trace), this.x(t) + 5, AXIS / 2);
    for (const t of ticks) g.fillRect(Math.round(this.x(t)), AXIS / 2 - 6, 1, AXIS / 2 + 6);
  }

  drawBands(cone) {
    const { context: g, colours, trace } = this;
    const half = Math.min(this.laneHeight * 0.42, 40);
    for (let p = 0; p < trace.processes.length; p++) {
      if (!this.laneVisible(this.laneOf[p])) continue;
      const y = this.yOf(p) - half;
      const from = trace.all.start[p];
      if (cone.past[p] >= 0) {
        this.band(colours["past-band"], trace.begin[p], trace.all.times[from + cone.past[p]], y, 2 * half);
      }
      if (cone.future[p] < trace.length[p]) {
        this.band(colours["future-band"], trace.all.times[from + cone.future[p]], trace.end[p], y, 2 * half);
      }
    }
    const x = Math.round(this.x(trace.at[cone.event])) + 0.5;
    g.strokeStyle = colours.faint;
    g.setLineDash([2, 4]);
    g.beginPath();
    g.moveTo(x, AXIS);
    g.lineTo(x, this.height);
    g.stroke();
    g.setLineDash([]);
  }

  band(colour, t0, t1, y, height) {
    const from = Math.max(-8, this.x(t0) - 6);
    const to = Math.min(this.width + 8, this.x(t1) + 6);
    if (to < from) return;
    this.context.fillStyle = colour;
    this.context.beginPath();
    this.context.roundRect(from, y, to - from, height, 5);
    this.context.fill();
  }

  /** Each process's line, from its first event to its last; dashed where a log lost its head or tail. */
  drawLines() {
    const { context: g, colours, trace } = this;
    const names = [];
    trace.processes.forEach((process, p) => {
      if (!trace.length[p] || !this.laneVisible(this.laneOf[p])) return;
      const y = Math.round(this.yOf(p)) + 0.5;
      const [from, to] = [this.x(trace.begin[p]), this.x(trace.end[p])];
      g.strokeStyle = colours.faint;
      g.lineWidth = 1.25;
      g.beginPath();
      g.moveTo(Math.max(-10, from), y);
      g.lineTo(Math.min(this.width + 10, to), y);
      for (const [lost, x] of [[process.lostHead, from], [process.lostTail, to]]) {
        if (lost || x < -10 || x > this.width + 10) continue;
        g.moveTo(x, y - 7);
        g.lineTo(x, y + 7);
      }
      g.stroke();
      if (process.lostHead) this.lost(from, y, -1);
      if (process.lostTail) this.lost(to, y, 1);
      if (this.lanes[this.laneOf[p]].group.length > 1 && to > 0) names.push([`.${process.incarnation}`, from, to, y]);
    });
    g.fillStyle = colours.muted;
    g.font = `11px ${this.font}`;
    g.textAlign = "left";
    g.textBaseline = "alphabetic";
    for (const [name, from, to, y] of names) {
      if (to - from > 24) g.fillText(name, Math.max(4, from + 4), y + Math.min(this.laneHeight / 2 - 3, 22));
    }
  }

  /** The end of a line whose log goes on, or went before, but is lost: dashes, then a cross. */
  lost(x, y, way) {
    if (x < -40 || x > this.width + 40) return;
    const { context: g, colours } = this;
    g.strokeStyle = colours.alarm;
    g.lineWidth = 1.5;
    g.setLineDash([3, 3]);
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(x + way * 22, y);
    g.stroke();
    g.setLineDash([]);
    g.beginPath();
    const c = x + way * 27;
    g.moveTo(c - 4, y - 4);
    g.lineTo(c + 4, y + 4);
    g.moveTo(c - 4, y + 4);
    g.lineTo(c + 4, y - 4);
    g.stroke();
  }

  /** Which processes are drawn event by event, and which as densities. */
  plan() {
    const { matched, shown } = this.lists;
    const visible = [];
    this.trace.processes.forEach((_, p) => {
      const x = this.laneOf[p] >= 0 && this.laneVisible(this.laneOf[p]);
      if (x && this.x(this.trace.begin[p]) <= this.width + 10 && this.x(this.trace.end[p]) >= -10) visible.push(p);
    });
    const most = Math.min(this.width / 3, DOTS_MAX / Math.max(1, visible.length));
    const margin = this.time(8) - this.t0;
    this.plans = visible.map((p) => {
      const [from, to] = matched.range(p, this.t0 - margin, this.t1 + margin);
      const ghosts = this.ghosts && shown !== matched ? shown.range(p, this.t0 - margin, this.t1 + margin) : [0, 0];
      return { p, from, to, ghosts, dense: to - from > most, ghostsDense: ghosts[1] - ghosts[0] > most };
    });
  }

  drawDensities(cone) {
    const plans = this.plans.filter((plan) => plan.dense || plan.ghostsDense);
    if (!plans.length) return;
    const [w, h] = [Math.ceil(this.width), Math.ceil(this.height)];
    if (this.pixels?.width !== w || this.pixels?.height !== h) {
      this.bars.canvas.width = w;
      this.bars.canvas.height = h;
      this.pixels = new ImageData(w, h);
      this.words = new Uint32Array(this.pixels.data.buffer);
    }
    this.words.fill(0);
    const { shown, matched } = this.lists;
    for (const plan of plans) {
      if (plan.ghostsDense) this.bar(shown, plan.p, plan.ghosts, null, "ghost");
      if (plan.dense) this.bar(matched, plan.p, [plan.from, plan.to], cone, "density");
      this.stats.densities++;
    }
    this.bars.putImageData(this.pixels, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.bars.canvas, 0, 0, w, h);
  }

  /** One column of pixels for each column that has events, as high as they are many. */
  bar(list, p, [from, to], cone, colour) {
    const { width, height } = this.pixels;
    const { times, events } = list;
    const { place } = this.trace;
    const pixel = (this.t1 - this.t0) / this.width;
    const middle = Math.round(this.yOf(p));
    const most = Math.min(this.laneHeight * 0.4, 44);
    const words = Object.fromEntries(["ghost", "concurrent", "density", "past", "future"].map((name) => [name, word(this.colours[name])]));
    for (let k = from; k < to; ) {
      const column = Math.floor((times[k] - this.t0) / pixel);
      const next = Math.max(k + 1, gallop(times, this.t0 + (column + 1) * pixel, k, to));
      if (column >= 0 && column < width) {
        let fill = words[colour];
        if (cone) {
          if (place[events[next - 1]] <= cone.past[p]) fill = words.past;
          else if (place[events[k]] >= cone.future[p]) fill = words.future;
          else fill = words.concurrent;
        }
        const half = Math.max(1, Math.round(most * Math.min(1, Math.log2(1 + next - k) / 9)));
        const top = Math.max(AXIS, middle - half);
        const bottom = Math.min(height - 1, middle + half);
        for (let y = top; y <= bottom; y++) this.words[y * width + column] = fill;
      }
      k = next;
    }
  }

  drawSpan() {
    const { context: g, colours, trace, span } = this;
    if (span < 0 || !this.laneVisible(this.laneOf[trace.spans.process[span]])) return;
    const y = this.yOf(trace.spans.process[span]);
    const [from, to] = [this.x(trace.spans.start[span]), this.x(trace.spans.end[span])];
    g.strokeStyle = colours.accent;
    g.lineWidth = 2;
    g.beginPath();
    g.roundRect(from - 2, y - 12, Math.max(4, to - from + 4), 24, 4);
    g.stroke();
  }

  /** The colour of an event or a message, given where it stands to the cone. */
  colourOf(call, where) {
    if (where === -1) return "past";
    if (where === 1) return "future";
    return where === 2 ? "concurrent" : this.callColour[call];
  }

  drawArrows(cone) {
    const { trace } = this;
    const { messages } = this.lists;
    const found = messages.within(trace, this.t0, this.t1, ARROWS_MAX);
    this.stats.arrowsHidden = found === null;
    const strength = found ? Math.min(1, (ARROWS_MAX - found.length) / (ARROWS_MAX / 2)) : 0;
    const heads = found !== null && found.length < 700;
    const byColour = new Map();
    for (const m of found || []) {
      const [s, r] = [messages.sends[m], messages.receives[m]];
      let where = 0;
      if (cone) {
        // A message is in the past when its receive is, in the future when its send is.
        const [a, b] = [side(trace, cone, s), side(trace, cone, r)];
        where = b === -1 || (b === 0 && a === -1) ? -1 : a === 1 || (a === 0 && b === 1) ? 1 : 2;
      }
      const colour = this.colourOf(trace.call[s], where);
      if (!byColour.has(colour)) byColour.set(colour, []);
      byColour.get(colour).push([s, r]);
      this.stats.arrows++;
    }
    const faint = ["concurrent", "beat"];
    for (const colour of [...byColour.keys()].sort((a, b) => faint.includes(b) - faint.includes(a))) {
      this.arrows(byColour.get(colour), colour, strength * (faint.includes(colour) ? 0.7 : 0.85), heads);
    }
    if (this.selected >= 0) this.drawOwnArrows(this.selected);
  }

  /** The messages of the selected event are always there. */
  drawOwnArrows(event) {
    const { trace } = this;
    const visible = (i) => this.laneOf[trace.process[i]] >= 0;
    if (!visible(event)) return;
    const out = [];
    for (let r = trace.firstReceive[event]; r >= 0; r = trace.nextReceive[r]) if (visible(r)) out.push([event, r]);
    if (trace.from[event] >= 0 && visible(trace.from[event])) this.arrows([[trace.from[event], event]], "past", 1, true, 2);
    this.arrows(out, "future", 1, true, 2);
  }

  arrows(pairs, colour, alpha, heads, width = 1.1) {
    const { context: g, trace } = this;
    g.globalAlpha = alpha;
    g.strokeStyle = g.fillStyle = this.colours[colour];
    g.lineWidth = width;
    g.beginPath();
    const points = [];
    for (const [s, r] of pairs) {
      const [x0, y0, x1, y1] = [this.x(trace.at[s]), this.yOf(trace.process[s]), this.x(trace.at[r]), this.yOf(trace.process[r])];
      g.moveTo(x0, y0);
      g.lineTo(x1, y1);
      if (heads) points.push([x0, y0, x1, y1]);
    }
    g.stroke();
    g.beginPath();
    for (const [x0, y0, x1, y1] of points) {
      const long = Math.hypot(x1 - x0, y1 - y0);
      if (long < 14) continue;
      const [dx, dy] = [(x1 - x0) / long, (y1 - y0) / long];
      const [tx, ty] = [x1 - dx * 5, y1 - dy * 5];
      g.moveTo(tx, ty);
      g.lineTo(tx - dx * 7 - dy * 3, ty - dy * 7 + dx * 3);
      g.lineTo(tx - dx * 7 + dy * 3, ty - dy * 7 - dx * 3);
    }
    g.fill();
    g.globalAlpha = 1;
  }

  drawDots(cone) {
    const { shown, matched } = this.lists;
    const labels = [];
    for (const plan of this.plans) {
      const [from, to] = plan.ghosts;
      const y = this.yOf(plan.p);
      if (!plan.ghostsDense) {
        for (let k = from; k < to; k++) this.dot(this.x(shown.times[k]), y, "bare", "ghost", 2);
      }
      if (plan.dense) continue;
      const spacing = this.width / Math.max(1, plan.to - plan.from);
      const size = spacing > 16 ? 4.5 : spacing > 7 ? 3.5 : 2.5;
      for (let k = plan.from; k < plan.to; k++) {
        const i = matched.events[k];
        const where = cone ? side(this.trace, cone, i) : 0;
        const colour = !cone && this.trace.level[i] <= 1 ? "alarm" : this.colourOf(this.trace.call[i], where);
        if (size > 2.5 && this.isUnreceived(i)) this.stub(i, this.x(matched.times[k]), y, colour);
        this.dot(this.x(matched.times[k]), y, this.shape(i), colour, size);
        this.stats.dots++;
      }
      if (spacing > 12 && this.laneHeight >= 40) labels.push(plan);
    }
    for (const plan of labels) this.drawLabels(plan, cone);
  }

  isUnreceived(i) {
    return this.trace.firstReceive[i] < 0 && this.trace.isSend(i);
  }

  /** A send that nobody received, as far as is known: a short dashed line towards where it went. */
  stub(i, x, y, colour) {
    const to = field(this.trace.string(this.trace.text[i]), "to");
    const lane = this.lanes.findIndex((l) => l.host === to || l.group.some((p) => this.trace.processes[p].name === to));
    const way = lane >= 0 && lane < this.laneOf[this.trace.process[i]] ? -1 : 1;
    const { context: g } = this;
    g.strokeStyle = this.colours[colour];
    g.lineWidth = 1.1;
    g.beginPath();
    for (const [from, end] of [[5, 9], [12, 16]]) {
      g.moveTo(x + from * 0.35, y + way * from);
      g.lineTo(x + end * 0.35, y + way * end);
    }
    g.moveTo(x + 4, y + way * 19);
    g.lineTo(x + 9, y + way * 19);
    g.stroke();
  }

  /** Sends are full, receives are rings, what is local is a diamond. */
  shape(i) {
    if (this.trace.isReceive(i)) return "ring";
    return this.trace.isSend(i) ? "disc" : "diamond";
  }

  dot(x, y, shape, colour, size) {
    const name = `${shape} ${colour} ${size}`;
    let sprite = this.sprites.get(name);
    if (!sprite) {
      sprite = makeSprite(shape, this.colours[colour], this.colours.canvas, size, this.ratio);
      this.sprites.set(name, sprite);
    }
    const side = sprite.width / this.ratio;
    this.context.drawImage(sprite, x - side / 2, y - side / 2, side, side);
  }

  label(i) {
    const { trace } = this;
    const kind = trace.kinds[trace.kind[i]];
    const call = trace.calls[trace.call[i]];
    if (call === kind) return kind;
    return call.slice(call.lastIndexOf(".") + 1);
  }

  drawLabels({ p, from, to }, cone) {
    const { context: g, trace } = this;
    const { matched } = this.lists;
    const y = this.yOf(p) - 10;
    g.font = `11px ${this.font}`;
    g.textAlign = "center";
    g.textBaseline = "alphabetic";
    let free = -Infinity;
    for (let k = from; k < to; k++) {
      const i = matched.events[k];
      if (trace.isReceive(i) || this.callColour[trace.call[i]] === "beat") continue;
      const text = this.label(i);
      const half = g.measureText(text).width / 2;
      const x = Math.max(half + 4, Math.min(this.width - half - 4, this.x(matched.times[k])));
      if (x - half < free + 6) continue;
      const quiet = cone && side(trace, cone, i) === 2;
      g.fillStyle = this.colours[quiet ? "faint" : trace.level[i] <= 1 ? "alarm" : "muted"];
      g.fillText(text, x, y);
      free = x + half;
    }
  }

  /** Rare events and alarms, where the rest of their process is a density. */
  drawLandmarks(cone) {
    const { context: g, trace, landmarks, landmarkTimes, colours } = this;
    const dense = new Set(this.plans.filter((plan) => plan.dense).map((plan) => plan.p));
    const ends = new Map();
    const from = lowerBound(landmarkTimes, this.t0, 0, landmarks.length);
    const to = lowerBound(landmarkTimes, this.t1, from, landmarks.length);
    if (!dense.size || to - from > 4 * LANDMARKS_MAX) return;
    g.font = `11px ${this.font}`;
    g.textAlign = "left";
    g.textBaseline = "alphabetic";
    for (let k = from; k < to; k++) {
      const i = landmarks[k];
      const p = trace.process[i];
      if (!dense.has(p) || !this.isMatched(i)) continue;
      const [x, y] = [this.x(landmarkTimes[k]), this.yOf(p)];
      const where = cone ? side(trace, cone, i) : 0;
      const colour = trace.level[i] <= 1 ? "alarm" : where ? this.colourOf(trace.call[i], where) : "ink";
      this.dot(x, y, "diamond", colour, 4.5);
      const text = this.label(i);
      if (this.laneHeight < 48 || x < (ends.get(p) ?? -Infinity)) continue;
      const wide = g.measureText(text).width;
      g.fillStyle = colours.canvas;
      g.globalAlpha = 0.82;
      g.fillRect(x - 3, y - this.laneHeight * 0.44, wide + 6, 14);
      g.globalAlpha = 1;
      g.fillStyle = trace.level[i] <= 1 ? colours.alarm : colours.ink;
      g.fillText(text, x, y - this.laneHeight * 0.44 + 11);
      ends.set(p, x + wide + 10);
    }
  }

  isMatched(i) {
    const { matched } = this.lists;
    const p = this.trace.process[i];
    const k = lowerBound(matched.events, i, matched.start[p], matched.start[p + 1]);
    return k < matched.start[p + 1] && matched.events[k] === i;
  }

  drawMarks() {
    const { context: g, trace, colours } = this;
    for (const [i, strong] of [[this.hovered, false], [this.selected, true]]) {
      if (i < 0 || this.laneOf[trace.process[i]] < 0) continue;
      const [x, y] = [this.x(trace.at[i]), this.yOf(trace.process[i])];
      this.dot(x, y, this.shape(i), "ink", 4.5);
      g.strokeStyle = strong ? colours.ink : colours.muted;
      g.lineWidth = strong ? 2 : 1.25;
      g.beginPath();
      g.arc(x, y, 9, 0, 2 * Math.PI);
      g.stroke();
    }
  }

  drawScrollbar() {
    if (!this.scrollMax) return;
    const room = this.height - AXIS;
    const whole = room + this.scrollMax;
    this.context.fillStyle = this.colours.faint;
    this.context.beginPath();
    this.context.roundRect(this.width - 6, AXIS + (this.scroll / whole) * room, 4, (room / whole) * room, 2);
    this.context.fill();
  }
}
