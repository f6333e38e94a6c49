// The panel: the selected event, its clock and messages; the spans of its request; the findings.

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const count = (n, one, many = `${one}s`) => `${number.format(n)} ${n === 1 ? one : many}`;

/** An element with attributes, handlers and children; text is always text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const swatch = (name) => make("i", { class: `swatch ${name}` });
const SPANS_MAX = 80;

class Panel {
  constructor(page) {
    this.page = page;
    this.findingsShown = false;
  }

  describe(i) {
    const { trace } = this.page;
    const kind = trace.kinds[trace.kind[i]];
    const call = trace.calls[trace.call[i]];
    return call === kind ? kind : `${call} ${kind}`;
  }

  eventButton(i, from) {
    const { trace } = this.page;
    const away = trace.at[i] - trace.at[from];
    return make(
      "button",
      { type: "button", "data-goto": i, onclick: () => this.page.follow(i) },
      make("span", {}, `${this.describe(i)} · ${trace.processes[trace.process[i]].name}`),
      make("small", {}, `${away < 0 ? "−" : "+"}${duration(Math.abs(away))}`),
    );
  }

  show() {
    const { selected } = this.page.diagram;
    const panel = $("panel");
    for (const name of ["event", "past", "future", "concurrent"]) delete panel.dataset[name];
    if (selected < 0) $("event").replaceChildren(...this.summary());
    else {
      const cone = this.page.diagram.cone;
      Object.assign(panel.dataset, { event: selected, past: cone.before, future: cone.after, concurrent: cone.concurrent });
      $("event").replaceChildren(...this.eventParts(selected, cone));
    }
    this.showSpans();
    this.showFindings();
  }

  summary() {
    const { trace } = this.page;
    const hosts = new Set(trace.processes.map((process) => process.host));
    const facts = [
      ["begins", trace.wallTime(trace.first)],
      ["lasts", duration(trace.last - trace.first)],
      ["holds", `${count(trace.size, "event")}, ${count(trace.messageTotal, "message")}, ${count(trace.spans.size, "span")}`],
      ["of", `${count(hosts.size, "host")}, ${count(trace.processes.length, "process", "processes")}`],
    ];
    return [
      make("h2", {}, "The whole trace"),
      make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      make("p", { class: "note" }, "Select an event to see what could have caused it, and what it could have caused."),
    ];
  }

  eventParts(i, cone) {
    const { trace } = this.page;
    const p = trace.process[i];
    const process = trace.processes[p];
    const parts = [
      make("h2", {}, this.describe(i)),
      make("p", { class: "where" }, [process.name, process.node, LEVELS[trace.level[i]]].filter(Boolean).join(" · ")),
      make("p", { class: "where", title: trace.wallTime(trace.at[i]) }, `${instant(trace.at[i], 1, trace)} · ${trace.wallTime(trace.at[i]).slice(11)}`),
      process.note ? make("p", { class: "note" }, process.note) : "",
      this.fieldList(i),
    ];
    const cones = [["past", cone.before], ["future", cone.after], ["concurrent", cone.concurrent]];
    parts.push(make("div", { class: "cone" }, ...cones.map(([name, n]) => make("span", {}, swatch(name), `${name} ${number.format(n)}`))));
    if (trace.from[i] >= 0) {
      parts.push(make("h3", {}, "Received from"), make("ul", { class: "events", id: "came" }, make("li", {}, this.eventButton(trace.from[i], i))));
    } else if (trace.isReceive(i)) parts.push(make("p", { class: "note" }, "Its send is not in the trace."));
    const led = [];
    for (let r = trace.firstReceive[i]; r >= 0; r = trace.nextReceive[r]) led.push(make("li", {}, this.eventButton(r, i)));
    if (led.length) parts.push(make("h3", {}, "Led to"), make("ul", { class: "events", id: "led" }, ...led));
    else if (trace.isSend(i)) parts.push(make("p", { class: "note" }, "No receive of it is in the trace."));
    const own = trace.all.start[p] + trace.place[i];
    const neighbour = (k, name) => {
      const there = k >= trace.all.start[p] && k < trace.all.start[p + 1];
      return make("button", { type: "button", disabled: !there, onclick: () => this.page.follow(trace.all.events[k]) }, name);
    };
    parts.push(make("div", { class: "steps" }, neighbour(own - 1, "‹ before it here"), neighbour(own + 1, "after it here ›"), make("button", { type: "button", onclick: () => this.page.zoomToSelected() }, "Zoom to it")));
    parts.push(make("h3", {}, "Clock"), this.clockList(i, cone));
    return parts;
  }

  fieldList(i) {
    const { trace } = this.page;
    const list = make("dl", { class: "fields", id: "text", "data-text": trace.string(trace.text[i]) });
    const rows = fields(trace.string(trace.text[i]));
    for (const name of ["request", "key"]) {
      const value = trace.string(trace[name][i]);
      if (trace[name][i] >= 0 && !rows.some((row) => row.name === name)) rows.unshift({ name, value });
    }
    for (const { name, value } of rows) {
      if (!name) {
        list.append(make("dd", { class: "words" }, value));
        continue;
      }
      const filters = name === "key" || name === "request";
      const link = filters && make("button", { type: "button", class: "link", title: `Show only this ${name}`, onclick: () => this.page.setTerm(name, value) }, value);
      list.append(make("dt", {}, name), make("dd", {}, link || value));
    }
    return list;
  }

  clockList(i, cone) {
    const { trace } = this.page;
    const own = trace.process[i];
    const rows = [];
    const others = trace.processes.map((_, p) => p).filter((p) => p !== own);
    [own, ...others].forEach((p) => {
      const process = trace.processes[p];
      const place = p === own ? trace.place[i] : cone.past[p];
      if (place < 0) return;
      rows.push(make("div", { class: p === own ? "own" : null, "data-process": process.name }, make("span", { title: process.name }, process.name), number.format(trace.countOf(p, place))));
    });
    return make("div", { class: "clock", id: "clock" }, ...rows);
  }

  // ---- spans

  /** The request of the selected event, or the only one that the search asks for: an index, or null. */
  currentRequest() {
    const { selected, lists } = this.page.diagram;
    if (selected >= 0 && this.page.trace.request[selected] >= 0) return { index: this.page.trace.request[selected] };
    const term = lists.terms.find((t) => t.field === "request" && !t.not);
    if (!term) return null;
    const index = this.page.trace.strings.indexOf(term.value);
    return index >= 0 ? { index } : null;
  }

  spansOf(request) {
    const found = [];
    if (request < 0) return found;
    const { spans, strings } = this.page.trace;
    if (!this.firstSpan) {
      this.firstSpan = new Int32Array(strings.length).fill(-1);
      this.nextSpan = new Int32Array(spans.size).fill(-1);
      for (let s = spans.size - 1; s >= 0; s--) {
        const own = spans.request[s];
        if (own < 0) continue;
        this.nextSpan[s] = this.firstSpan[own];
        this.firstSpan[own] = s;
      }
    }
    for (let s = this.firstSpan[request]; s >= 0; s = this.nextSpan[s]) found.push(s);
    return found;
  }

  spansOfRequest(request) {
    const found = this.spansOf(request);
    return { found, total: found.length };
  }

  /** The longest spans that are in view, and how many there are in all. */
  spansInView() {
    const { trace, diagram } = this.page;
    const { spans } = trace;
    const longer = (a, b) => spans.end[b] - spans.start[b] - (spans.end[a] - spans.start[a]);
    const shown = trace.processes.map((_, p) => diagram.laneOf[p] >= 0);
    let found = [];
    let total = 0;
    let least = -Infinity; // what is shorter is not among the longest
    for (let s = 0; s < spans.size; s++) {
      if (spans.start[s] > diagram.t1 || spans.end[s] < diagram.t0 || !shown[spans.process[s]]) continue;
      total++;
      if (spans.end[s] - spans.start[s] <= least) continue;
      found.push(s);
      if (found.length < 8 * SPANS_MAX) continue;
      found = found.sort(longer).slice(0, SPANS_MAX);
      least = spans.end[found.at(-1)] - spans.start[found.at(-1)];
    }
    return { found: found.sort(longer).slice(0, SPANS_MAX), total };
  }

  showSpans() {
    const { trace, diagram } = this.page;
    const { spans } = trace;
    if (!spans.size) return;
    const request = this.currentRequest();
    const what = request ? `of ${request.index}` : `${diagram.t0} ${diagram.t1} ${diagram.lanes.length}`;
    if (what === this.spansShown) return;
    this.spansShown = what;
    const { found, total } = request ? this.spansOfRequest(request.index) : this.spansInView();
    let [from, to] = [diagram.t0, diagram.t1];
    if (request) {
      from = found.reduce((t, s) => Math.min(t, spans.start[s]), Infinity);
      to = found.reduce((t, s) => Math.max(t, spans.end[s]), -Infinity);
      found.length = Math.min(found.length, SPANS_MAX);
    }
    found.sort((a, b) => spans.start[a] - spans.start[b] || spans.end[b] - spans.end[a]);
    const some = request ? `the first ${SPANS_MAX} of` : `the longest ${SPANS_MAX} of`;
    const many = total > SPANS_MAX ? `${some} ${number.format(total)}` : "";
    const head = request ? make("h3", {}, "Request ", make("small", {}, `${trace.strings[request.index]} ${many}`)) : make("h3", {}, "Spans in view ", make("small", {}, many || total || ""));
    const parts = [head];
    if (!total) parts.push(make("p", { class: "note" }, request ? "No spans of this request." : "None."));
    else {
      parts.push(make("div", { class: "scale" }, make("span", {}, request ? "0" : ""), make("span", {}, duration(to - from))));
      parts.push(make("ul", { class: "gantt", id: "gantt", "data-total": total }, ...found.map((s) => this.spanRow(s, from, to))));
    }
    $("spans").replaceChildren(...parts);
  }

  spanRow(s, from, to) {
    const { trace, diagram } = this.page;
    const { spans } = trace;
    const [start, end, process] = [spans.start[s], spans.end[s], trace.processes[spans.process[s]]];
    const part = (t) => Math.max(0, Math.min(1, (t - from) / (to - from || 1)));
    const [a, b] = [part(start), part(end)];
    const length = duration(end - start);
    const late = b > 0.72 && (a > 0.6 || b - a < 0.3);
    const place = b < 0.72 ? `left:${b * 100}%` : late ? `right:${(1 - a) * 100}%` : `right:${(1 - b) * 100}%;color:var(--canvas)`;
    const bar = make("i", { style: `left:${a * 100}%;width:${(b - a) * 100}%` });
    const name = trace.strings[spans.name[s]];
    const hot = (on) => () => {
      diagram.span = on ? s : -1;
      this.page.changed();
    };
    const margin = Math.max(100, (end - start) * 0.3);
    return make(
      "li",
      {},
      make(
        "button",
        {
          type: "button",
          title: `${name} · ${process.name} · ${length}\n${trace.string(spans.text[s])}`,
          onmouseenter: hot(true),
          onmouseleave: hot(false),
          onfocus: hot(true),
          onblur: hot(false),
          onclick: () => this.page.glide(start - margin, end + margin),
        },
        make("span", { class: "name" }, name, make("small", {}, process.name)),
        make("span", { class: "track" }, bar, make("em", { style: place }, length)),
      ),
    );
  }

  showFindings() {
    const { findings } = this.page.trace;
    if (this.findingsShown || !findings.length) return;
    this.findingsShown = true;
    const list = make("ul", {}, ...findings.map((text) => make("li", {}, text)));
    const few = findings.length <= 3;
    $("findings").replaceChildren(make("details", { open: few }, make("summary", {}, count(findings.length, "finding")), list));
  }
}
