// The page: its window of time, its filter, its selection; and `window.quorate` for tests and the curious.

class Page {
  constructor(trace) {
    this.trace = trace;
    this.hidden = { hosts: new Set(), calls: new Set(), kinds: new Set(), levels: new Set() };
    this.folded = true;
    this.query = "";
    this.run = 0;
    this.diagram = new Diagram($("plot"), trace);
    this.overview = new Overview($("overview"), this.diagram);
    this.frame = 0;
    this.fit(false);
    this.relayout();
    this.panel = new Panel(this);
    new Menus(this);
    new Input(this);
    this.listen();
    this.panel.show();
  }

  // ---- the window of time

  /** Everything, with a margin. */
  get whole() {
    const { first, last } = this.trace;
    const margin = Math.max(WINDOW_MIN, (last - first) * 0.015);
    return [first - margin, last + margin];
  }

  window(t0, t1) {
    const [first, last] = this.whole;
    const span = Math.max(WINDOW_MIN, Math.min(t1 - t0, last - first));
    const middle = (t0 + t1) / 2;
    const from = Math.max(first, Math.min(last - span, middle - span / 2));
    this.diagram.t0 = from;
    this.diagram.t1 = from + span;
    this.changed();
  }

  /** Goes to a window smoothly, unless less motion is wanted. */
  glide(t0, t1) {
    const from = [this.diagram.t0, this.diagram.t1];
    const began = performance.now();
    const length = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 170;
    const flight = (this.flight = {});
    const step = () => {
      if (this.flight !== flight) return;
      const done = length ? Math.min(1, (performance.now() - began) / length) : 1;
      const eased = 1 - (1 - done) ** 3;
      this.window(from[0] + (t0 - from[0]) * eased, from[1] + (t1 - from[1]) * eased);
      if (done < 1) requestAnimationFrame(step);
      else this.flight = null;
    };
    step();
  }

  fit(smooth = true) {
    if (smooth) this.glide(...this.whole);
    else this.window(...this.whole);
  }

  zoom(factor, x = this.diagram.width / 2) {
    this.flight = null;
    const { t0, t1 } = this.diagram;
    const at = this.diagram.time(x);
    const span = Math.max(WINDOW_MIN, (t1 - t0) * factor);
    this.window(at - (span * x) / this.diagram.width, at + span * (1 - x / this.diagram.width));
  }

  pan(part) {
    const { t0, t1 } = this.diagram;
    const by = (t1 - t0) * part;
    this.glide(t0 + by, t1 + by);
  }

  /** Moves as little as is needed for an event to be seen. */
  reveal(event, smooth) {
    const { diagram, trace } = this;
    const { t0, t1 } = diagram;
    const at = trace.at[event];
    const margin = (t1 - t0) * 0.08;
    if (at < t0 + margin || at > t1 - margin) {
      const half = (t1 - t0) / 2;
      if (smooth) this.glide(at - half, at + half);
      else this.window(at - half, at + half);
    }
    const lane = diagram.laneOf[trace.process[event]];
    if (lane >= 0) {
      const y = diagram.y(lane) - AXIS;
      const half = diagram.laneHeight / 2;
      if (y - half < 0) diagram.scrollTo(diagram.scroll + y - half);
      if (y + half > diagram.height - AXIS) diagram.scrollTo(diagram.scroll + y + half - (diagram.height - AXIS));
    }
  }

  zoomToSelected() {
    const { selected } = this.diagram;
    if (selected < 0) return;
    const { trace } = this;
    let [from, to] = [trace.at[selected], trace.at[selected]];
    const take = (i) => {
      from = Math.min(from, trace.at[i]);
      to = Math.max(to, trace.at[i]);
    };
    if (trace.from[selected] >= 0) take(trace.from[selected]);
    for (let r = trace.firstReceive[selected]; r >= 0; r = trace.nextReceive[r]) take(r);
    for (const s of this.panel.spansOf(trace.request[selected])) {
      from = Math.min(from, trace.spans.start[s]);
      to = Math.max(to, trace.spans.end[s]);
    }
    const margin = Math.max(200, (to - from) * 0.25);
    this.glide(from - margin, to + margin);
  }

  // ---- drawing, once a frame at most

  changed() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.diagram.draw();
    this.overview.draw();
    this.placeLabels();
    this.showLegend();
    const { t0, t1 } = this.diagram;
    const whole = this.trace.last - this.trace.first;
    $("zoomed").replaceChildren(make("span", {}, duration(Math.min(t1 - t0, whole))), make("span", {}, `of ${duration(whole)}`));
    const shown = `${t0} ${t1} ${this.diagram.selected}`;
    if (shown !== this.shown) {
      this.shown = shown;
      clearTimeout(this.settling);
      this.settling = setTimeout(() => this.settled(), 140);
    }
  }

  /** When the window stands still. */
  settled() {
    if (!this.panel.currentRequest()) this.panel.showSpans();
    this.remember();
  }

  relayout() {
    this.diagram.layout(makeLanes(this.trace, this.hidden.hosts, this.folded));
    this.buildLabels();
    this.overview.refresh();
    const again = this.trace.processes.some((process) => process.incarnation > 1);
    $("fold").hidden = !again;
    $("fold").textContent = this.folded ? "Unfold" : "Fold";
    $("fold").setAttribute("aria-pressed", String(!this.folded));
    this.changed();
  }

  buildLabels() {
    const { trace, diagram } = this;
    const items = diagram.lanes.map((lane) => {
      const members = lane.members.map((p) => trace.processes[p]);
      const folded = lane.group.length > 1 && lane.members.length > 1;
      const torn = members.some((process) => process.lostHead || process.lostTail);
      const last = members.at(-1);
      const about = [lane.first && (last.node || last.role), folded && `${members.length} incarnations`].filter(Boolean).join(" · ");
      const title = members
        .map((m) => [m.name, m.role, m.node, m.lostHead && "its beginning is lost", m.lostTail && "its end is lost", m.note].filter(Boolean).join(" · "))
        .join("\n");
      return make(
        "li",
        { title, class: lane.first ? null : "again", "data-host": lane.host },
        make("b", {}, lane.first ? lane.host : `.${members[0].incarnation}`),
        make("small", {}, torn && make("span", { class: "torn" }, "torn"), torn && about && " · ", about),
      );
    });
    $("lanes").replaceChildren(...items);
  }

  placeLabels() {
    const { diagram } = this;
    const key = `${diagram.scroll} ${diagram.laneHeight} ${diagram.lanes.length}`;
    const list = $("lanes");
    if (key === this.labelled && list.firstChild?.style.height) return;
    this.labelled = key;
    [...list.children].forEach((item, n) => {
      item.style.height = `${diagram.laneHeight}px`;
      item.style.transform = `translateY(${n * diagram.laneHeight - diagram.scroll}px)`;
      item.lastChild.hidden = diagram.laneHeight < 34;
    });
  }

  showLegend() {
    const { diagram, trace } = this;
    const cone = diagram.cone;
    const parts = [];
    if (cone) {
      const names = [["past", cone.before], ["future", cone.after], ["concurrent", cone.concurrent]];
      for (const [name, n] of names) parts.push(make("span", {}, swatch(name), `${name} ${number.format(n)}`));
    } else if (diagram.stats.arrowsHidden && diagram.stats.densities) {
      parts.push(make("span", {}, make("i", { class: "swatch bars" }), "many events; zoom in for messages"));
    } else {
      for (const c of diagram.byCount) {
        const colour = diagram.callColour[c];
        if (colour === "other" || this.hidden.calls.has(trace.calls[c])) continue;
        parts.push(make("span", {}, make("i", { class: "swatch", style: `--c: var(--${colour})` }), trace.calls[c]));
      }
    }
    for (const [shape, name] of [["disc", "send"], ["ring", "receive"], ["diamond", "local"]]) {
      parts.push(make("span", { class: shape === "disc" ? "right" : null }, swatch(shape), name));
    }
    const said = parts.map((part) => part.textContent).join("|") + Boolean(cone);
    if (said === this.legend) return;
    this.legend = said;
    $("legend").replaceChildren(...parts);
  }

  // ---- filters

  async filter(query) {
    const run = ++this.run;
    this.query = query.trim();
    if ($("query").value.trim() !== this.query) $("query").value = this.query;
    const lists = await filtered(this.trace, this.query, this.hidden, () => run !== this.run);
    if (!lists || run !== this.run) return;
    this.diagram.lists = lists;
    const narrowed = lists.matched !== this.trace.all;
    $("hits").textContent = narrowed ? `${number.format(lists.matched.total)} of ${number.format(this.trace.size)}` : "";
    $("reset").hidden = !narrowed;
    for (const menu of document.querySelectorAll(".menu")) {
      const { facet, values } = menu.dataset;
      menu.classList.toggle("active", facet ? this.hidden[facet].size > 0 : lists.terms.some((term) => term.field === values));
    }
    this.relayout();
    this.panel.showSpans();
    this.remember();
  }

  /** Puts `name:value` into the search, in place of what it has for that field. */
  setTerm(name, value) {
    const kept = parseQuery(this.query)
      .filter((term) => term.field !== name)
      .map((term) => `${term.not ? "-" : ""}${term.field === "text" ? "" : `${term.field}:`}${quote(term.value)}`);
    if (value !== null) kept.push(`${name}:${quote(value)}`);
    return this.filter(kept.join(" "));
  }

  hide(facet, name, hidden) {
    if (hidden) this.hidden[facet].add(name);
    else this.hidden[facet].delete(name);
    return this.filter(this.query);
  }

  reset() {
    for (const set of Object.values(this.hidden)) set.clear();
    document.querySelectorAll(".menu[open]").forEach((menu) => (menu.open = false));
    return this.filter("");
  }

  // ---- selecting

  select(event, { smooth = false, reveal = true } = {}) {
    this.diagram.selected = event;
    this.diagram.span = -1;
    if (event >= 0 && reveal) this.reveal(event, smooth);
    this.panel.show();
    this.say(event);
    this.changed();
    this.remember();
  }

  /** For those who do not see the diagram. */
  say(event) {
    const { cone } = this.diagram;
    const { trace } = this;
    const name = event >= 0 && trace.processes[trace.process[event]].name;
    $("said").textContent = name ? `${this.panel.describe(event)} at ${name}: ${cone.before} before, ${cone.after} after, ${cone.concurrent} concurrent` : "";
  }

  hover(event) {
    if (this.diagram.hovered === event) return;
    this.diagram.hovered = event;
    this.changed();
  }

  /** From the selected event (or the edge of the window) to the next that matches. */
  step(way, sameProcess = false) {
    const { diagram, trace } = this;
    const { matched } = diagram.lists;
    const now = diagram.selected;
    const target = now >= 0 ? now : way > 0 ? lowerBound(trace.at, diagram.t0, 0, trace.size) - 1 : lowerBound(trace.at, diagram.t1, 0, trace.size);
    let best = -1;
    for (let p = 0; p < trace.processes.length; p++) {
      if (sameProcess && now >= 0 && p !== trace.process[now]) continue;
      const [from, to] = [matched.start[p], matched.start[p + 1]];
      const k = way > 0 ? lowerBound(matched.events, target + 1, from, to) : lowerBound(matched.events, target, from, to) - 1;
      if (k < from || k >= to) continue;
      const i = matched.events[k];
      if (best < 0 || (way > 0 ? i < best : i > best)) best = i;
    }
    if (best >= 0) this.select(best, { smooth: true });
  }

  stepLane(way) {
    const { diagram, trace } = this;
    if (diagram.selected < 0) {
      diagram.scrollTo(diagram.scroll + way * diagram.laneHeight);
      return this.changed();
    }
    const at = trace.at[diagram.selected];
    for (let n = diagram.laneOf[trace.process[diagram.selected]] + way; n >= 0 && n < diagram.lanes.length; n += way) {
      let best = -1;
      for (const p of diagram.lanes[n].members) {
        const i = diagram.lists.matched.nearest(p, at);
        if (i >= 0 && (best < 0 || Math.abs(trace.at[i] - at) < Math.abs(trace.at[best] - at))) best = i;
      }
      if (best >= 0) return this.select(best, { smooth: true });
    }
  }

  follow(event) {
    if (event >= 0) this.select(event, { smooth: true });
  }

  enter() {
    const { diagram } = this;
    if (diagram.hovered >= 0) return this.select(diagram.hovered, { reveal: false });
    const middle = diagram.time(diagram.width / 2);
    let best = -1;
    this.trace.processes.forEach((_, p) => {
      const i = diagram.lists.matched.nearest(p, middle);
      if (i >= 0 && (best < 0 || Math.abs(this.trace.at[i] - middle) < Math.abs(this.trace.at[best] - middle))) best = i;
    });
    if (best >= 0) this.select(best, { smooth: true });
  }

  escape() {
    if (this.diagram.selected >= 0) this.select(-1);
    else if (this.query) this.filter("");
  }

  // ---- pointer and keys

  listen() {
    $("query").addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.filter($("query").value), 120);
    });
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.typing);
      this.filter($("query").value).then(() => this.step(1));
    });
    $("next").addEventListener("click", () => this.step(1));
    $("previous").addEventListener("click", () => this.step(-1));
    $("reset").addEventListener("click", () => this.reset());
    $("fit").addEventListener("click", () => this.fit());
    $("fold").addEventListener("click", () => this.fold());
    $("theme").addEventListener("click", () => this.theme());
    $("help").addEventListener("click", () => $("keys").showModal());
    document.addEventListener("pointerdown", (event) => {
      document.querySelectorAll(".menu[open]").forEach((menu) => menu.contains(event.target) || (menu.open = false));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
    new ResizeObserver(() => {
      this.diagram.resize();
      this.relayout();
      this.paint();
    }).observe($("plot"));
  }

  fold() {
    this.folded = !this.folded;
    this.relayout();
    this.remember();
  }

  theme(name) {
    const dark = getComputedStyle(document.documentElement).colorScheme;
    const isDark = dark === "dark" || (dark !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = name || (isDark ? "light" : "dark");
    this.recolour();
    this.remember();
  }

  recolour() {
    this.diagram.theme();
    this.overview.refresh();
    this.changed();
  }

  // ---- the address, so that a view can be passed on

  remember() {
    if (!this.ready) return;
    const { diagram } = this;
    const parts = new URLSearchParams();
    if (diagram.selected >= 0) parts.set("select", diagram.selected);
    if (this.query) parts.set("filter", this.query);
    for (const [facet, set] of Object.entries(this.hidden)) if (set.size) parts.set(`hide-${facet}`, [...set].join(","));
    const { theme } = document.documentElement.dataset;
    if (theme) parts.set("theme", theme);
    if (!this.folded) parts.set("unfold", "1");
    const [first, last] = this.whole;
    if (diagram.t1 - diagram.t0 < (last - first) * 0.999) parts.set("t", `${diagram.t0.toFixed(1)},${diagram.t1.toFixed(1)}`);
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => {
      try {
        history.replaceState(null, "", `#${parts}`);
      } catch {
        // A page that may not change its address does without.
      }
    }, 200);
  }

  async recall() {
    const parts = new URLSearchParams(location.hash.slice(1));
    if (["light", "dark"].includes(parts.get("theme"))) this.theme(parts.get("theme"));
    this.folded = !parts.has("unfold");
    for (const facet of Object.keys(this.hidden)) {
      this.hidden[facet] = new Set((parts.get(`hide-${facet}`) || "").split(",").filter(Boolean));
    }
    await this.filter(parts.get("filter") || "");
    const [t0, t1] = (parts.get("t") || "").split(",").map(Number);
    if (t1 > t0) this.window(t0, t1);
    const event = Number(parts.get("select") ?? -1);
    if (Number.isInteger(event) && event >= 0 && event < this.trace.size) this.select(event);
    this.ready = true;
  }
}

/** What a test may rely on. Times are microseconds since the start; events are numbers of the document. */
function surface(page) {
  const { trace, diagram } = page;
  return {
    select: (event) => page.select(event),
    hover: (event) => page.hover(event),
    clear: () => page.select(-1),
    /** Resolves when the filter has been applied. */
    filter: (query) => page.filter(query),
    /** `hide("calls", "beat")`, `hide("hosts", "node-1", false)`. */
    hide: (facet, name, hidden = true) => page.hide(facet, name, hidden),
    reset: () => page.reset(),
    window: (t0, t1) => {
      page.flight = null;
      page.window(t0, t1);
    },
    fit: () => page.fit(false),
    theme: (name) => page.theme(name),
    draw: () => page.paint(),
    /** Where an event is drawn, in pixels of the window. */
    where: (event) => {
      const box = $("plot").getBoundingClientRect();
      return { x: box.left + diagram.x(trace.at[event]), y: box.top + diagram.yOf(trace.process[event]) };
    },
    /** past, self, future or concurrent: how an event is shaded; null while nothing is. */
    shade: (event) => {
      const cone = diagram.cone;
      return cone && { "-1": "past", 0: "self", 1: "future", 2: "concurrent" }[side(trace, cone, event)];
    },
    state: () => {
      const cone = diagram.cone;
      return {
        events: trace.size,
        shown: diagram.lists.shown.total,
        matched: diagram.lists.matched.total,
        messages: diagram.lists.messages.total,
        selected: diagram.selected,
        hovered: diagram.hovered,
        past: cone ? cone.before : 0,
        future: cone ? cone.after : 0,
        concurrent: cone ? cone.concurrent : 0,
        window: [diagram.t0, diagram.t1],
        lanes: diagram.lanes.length,
        query: page.query,
        theme: document.documentElement.dataset.theme || "auto",
        drawn: { ...diagram.stats },
        drawMillis: diagram.drawMillis,
      };
    },
  };
}

function notice(head, ...lines) {
  $("notice").replaceChildren(make("b", {}, head), ...lines.map((line) => make("span", {}, line)));
}

async function main() {
  const source = $("data");
  let trace;
  try {
    trace = new Trace(JSON.parse(source.textContent));
  } catch (error) {
    notice("This trace cannot be read", String(error.message || error));
    return { error: String(error) };
  }
  source.remove();
  if (!trace.size && !trace.spans.size) {
    notice("This trace is empty", "No process has recorded an event.", ...trace.findings);
    return { events: 0 };
  }
  const page = new Page(trace);
  Object.assign(window.quorate, surface(page));
  await page.recall();
  page.paint();
  $("notice").hidden = true;
  return { events: trace.size };
}

// The first picture of the page comes before the work: large traces take seconds to read.
window.quorate = {
  ready: new Promise((resolve, reject) => {
    setTimeout(() => main().then(resolve, reject), 40);
  }),
};
