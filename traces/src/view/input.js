// Pointer, wheel and keys, on the diagram and on the overview.

class Input {
  constructor(page) {
    this.page = page;
    this.listenToPlot();
    this.listenToOverview();
    document.addEventListener("keydown", (event) => this.key(event));
  }

  listenToPlot() {
    const plot = $("plot");
    const down = new Map();
    let moved = 0;
    const place = (event) => {
      const box = plot.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    plot.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      plot.setPointerCapture(event.pointerId);
      down.set(event.pointerId, place(event));
      if (down.size === 1) moved = 0;
      this.page.flight = null;
    });
    plot.addEventListener("pointermove", (event) => {
      const now = place(event);
      const before = down.get(event.pointerId);
      if (!before) return this.point(...now);
      const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
      const { diagram } = this.page;
      down.set(event.pointerId, now);
      moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (moved < 5) return;
      plot.classList.add("dragging");
      $("tip").hidden = true;
      if (other) {
        const spread = (at) => Math.max(20, Math.abs(at[0] - other[0]));
        this.page.zoom(spread(before) / spread(now), (now[0] + other[0]) / 2);
      }
      const by = ((before[0] - now[0]) / (other ? 2 : 1) / diagram.width) * (diagram.t1 - diagram.t0);
      diagram.scrollTo(diagram.scroll + (before[1] - now[1]) / (other ? 2 : 1));
      this.page.window(diagram.t0 + by, diagram.t1 + by);
    });
    const up = (event) => {
      if (!down.delete(event.pointerId) || down.size) return;
      plot.classList.remove("dragging");
      if (event.type === "pointercancel" || moved >= 5) return;
      const found = this.page.diagram.pick(...place(event), event.pointerType === "touch" ? 22 : 10);
      this.page.select(found, { reveal: false });
    };
    plot.addEventListener("pointerup", up);
    plot.addEventListener("pointercancel", up);
    plot.addEventListener("pointerleave", () => {
      this.page.hover(-1);
      $("tip").hidden = true;
    });
    plot.addEventListener("dblclick", (event) => this.page.zoom(0.4, place(event)[0]));
    plot.addEventListener("wheel", (event) => this.wheel(event, place(event)[0]), { passive: false });
    document.querySelector(".lanes").addEventListener("wheel", (event) => this.scrollLanes(event), { passive: false });
  }

  wheel(event, x) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    const { diagram } = this.page;
    if (event.altKey) return this.scrollLanes(event);
    const sideways = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
    if (event.shiftKey || (!event.ctrlKey && Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
      this.page.flight = null;
      const by = ((sideways * unit) / diagram.width) * (diagram.t1 - diagram.t0);
      return this.page.window(diagram.t0 + by, diagram.t1 + by);
    }
    this.page.zoom(Math.exp(event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.002)), x);
  }

  scrollLanes(event) {
    event.preventDefault();
    this.page.diagram.scrollTo(this.page.diagram.scroll + (event.deltaY || event.deltaX) * (event.deltaMode === 1 ? 16 : 1));
    this.page.changed();
  }

  /** The pointer rests on the plot: the nearest event is named beside it. */
  point(x, y) {
    const { diagram, trace } = this.page;
    const found = diagram.pick(x, y, 10);
    this.page.hover(found);
    const tip = $("tip");
    tip.hidden = found < 0;
    if (found < 0) return;
    const sides = { "-1": "in the past of the selected event", 1: "in the future of the selected event", 2: "concurrent with the selected event" };
    const relation = diagram.selected >= 0 && sides[side(trace, diagram.cone, found)];
    const when = instant(trace.at[found], (diagram.t1 - diagram.t0) / 1e4, trace);
    tip.replaceChildren(make("div", {}, make("b", {}, this.page.panel.describe(found)), ` · ${when}`), relation ? make("div", {}, relation) : "", make("p", {}, trace.string(trace.text[found])));
    const [w, h] = [tip.offsetWidth, tip.offsetHeight];
    const left = x + 16 + w > diagram.width ? x - w - 12 : x + 16;
    const top = y + 18 + h > diagram.height ? y - h - 12 : y + 18;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, top)}px)`;
  }

  listenToOverview() {
    const overview = $("overview");
    let grip = null;
    const time = (event) => {
      const { first, last } = this.page.trace;
      const box = overview.getBoundingClientRect();
      return first + ((event.clientX - box.left) / box.width) * (last - first);
    };
    overview.addEventListener("pointerdown", (event) => {
      overview.setPointerCapture(event.pointerId);
      this.page.flight = null;
      const { t0, t1 } = this.page.diagram;
      const t = time(event);
      const near = (6 / this.page.overview.width) * (this.page.trace.last - this.page.trace.first);
      if (Math.abs(t - t0) < near) grip = { edge: 0 };
      else if (Math.abs(t - t1) < near) grip = { edge: 1 };
      else grip = { offset: t > t0 && t < t1 ? t - (t0 + t1) / 2 : 0 };
      move(event);
    });
    const move = (event) => {
      if (!grip) return;
      const { t0, t1 } = this.page.diagram;
      const t = time(event);
      if (grip.edge === 0) this.page.window(Math.min(t, t1 - WINDOW_MIN), t1);
      else if (grip.edge === 1) this.page.window(t0, Math.max(t, t0 + WINDOW_MIN));
      else this.page.window(t - grip.offset - (t1 - t0) / 2, t - grip.offset + (t1 - t0) / 2);
    };
    overview.addEventListener("pointermove", move);
    overview.addEventListener("pointerup", () => (grip = null));
    overview.addEventListener("pointercancel", () => (grip = null));
    overview.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.page.zoom(Math.exp(event.deltaY * 0.002));
    }, { passive: false });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    const { target } = event;
    const open = document.querySelector(".menu[open]");
    if (event.key === "Escape") {
      if (open) {
        open.open = false;
        open.querySelector("summary").focus();
      } else if (target === $("query")) {
        if ($("query").value) this.page.filter("");
        else $("plot").focus();
      } else this.page.escape();
      return event.preventDefault();
    }
    if (target.matches("input, textarea")) return;
    // Buttons and menus keep their own keys.
    if (target.matches("button, summary") && ["Enter", " "].includes(event.key)) return;
    if (open && open.contains(target)) return;
    const action = this.action(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  action(event) {
    const { diagram, trace } = this.page;
    const { selected } = diagram;
    const span = diagram.t1 - diagram.t0;
    const [first, last] = this.page.whole;
    const far = event.shiftKey ? 0.8 : 0.15;
    return {
      ArrowLeft: () => this.page.pan(-far),
      ArrowRight: () => this.page.pan(far),
      ArrowUp: () => this.page.stepLane(-1),
      ArrowDown: () => this.page.stepLane(1),
      "+": () => this.zoomKey(1 / 1.6),
      "=": () => this.zoomKey(1 / 1.6),
      "-": () => this.zoomKey(1.6),
      Home: () => this.page.glide(first, first + span),
      End: () => this.page.glide(last - span, last),
      0: () => this.page.fit(),
      z: () => this.page.zoomToSelected(),
      i: () => this.page.fold(),
      n: () => this.page.step(1),
      p: () => this.page.step(-1),
      N: () => this.page.step(1, true),
      P: () => this.page.step(-1, true),
      s: () => selected >= 0 && this.page.follow(trace.from[selected]),
      r: () => selected >= 0 && this.page.follow(trace.firstReceive[selected]),
      Enter: () => this.page.enter(),
      "/": () => $("query").select(),
      g: () => {
        diagram.ghosts = !diagram.ghosts;
        this.page.changed();
      },
      t: () => this.page.theme(),
      "?": () => $("keys").showModal(),
    }[event.key];
  }

  /** Zooms about the selected event while it is in view. */
  zoomKey(factor) {
    const { diagram } = this.page;
    const x = diagram.selected >= 0 ? diagram.x(this.page.trace.at[diagram.selected]) : -1;
    this.page.zoom(factor, x >= 0 && x <= diagram.width ? x : undefined);
  }
}
