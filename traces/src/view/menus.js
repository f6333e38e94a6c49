// The menus of the filter: check boxes for what is few, a list to search for keys and requests.

class Menus {
  constructor(page) {
    this.page = page;
    this.build();
  }

  /** The names of a facet with their number of events. */
  names(facet) {
    const { trace } = this.page;
    if (facet === "calls") return trace.calls.map((name, c) => [name, trace.callTotals[c]]).sort((a, b) => b[1] - a[1]);
    if (facet === "kinds") return trace.kinds.map((name, k) => [name, trace.kindTotals[k]]).filter(([, n]) => n).sort((a, b) => b[1] - a[1]);
    const totals = new Map();
    if (facet === "hosts") {
      trace.processes.forEach((process, p) => totals.set(process.host, (totals.get(process.host) || 0) + trace.length[p]));
      return [...totals];
    }
    for (const level of trace.level) totals.set(level, (totals.get(level) || 0) + 1);
    return [...totals].sort((a, b) => a[0] - b[0]).map(([level, n]) => [LEVELS[level] || String(level), n]);
  }

  build() {
    for (const menu of document.querySelectorAll(".menu")) {
      const { facet, values } = menu.dataset;
      menu.addEventListener("toggle", () => {
        if (!menu.open) return;
        document.querySelectorAll(".menu[open]").forEach((other) => other !== menu && (other.open = false));
        if (facet) this.fillFacet(menu, facet);
        else this.fillValues(menu, values);
      });
    }
  }

  fillFacet(menu, facet) {
    const all = this.names(facet);
    const redo = () => {
      this.page.filter(this.page.query);
      this.fillFacet(menu, facet);
    };
    const rows = all.map(([name, total]) => {
      const box = make("input", { type: "checkbox", "data-name": name, onchange: () => this.page.hide(facet, name, !box.checked) });
      box.checked = !this.page.hidden[facet].has(name);
      const only = () => {
        this.page.hidden[facet] = new Set(all.map(([other]) => other).filter((other) => other !== name));
        redo();
      };
      return make("label", {}, box, make("span", {}, name), make("button", { type: "button", class: "only", onclick: only }, "only"), make("small", {}, number.format(total)));
    });
    const everything = () => {
      this.page.hidden[facet].clear();
      redo();
    };
    menu.querySelector(".sheet").replaceChildren(...rows, make("button", { type: "button", onclick: everything }, "All"));
  }

  fillValues(menu, name) {
    const { trace } = this.page;
    if (!this.valueTotals) this.valueTotals = {};
    if (!this.valueTotals[name]) {
      const totals = new Map();
      for (const index of trace[name]) if (index >= 0) totals.set(index, (totals.get(index) || 0) + 1);
      this.valueTotals[name] = [...totals].sort((a, b) => b[1] - a[1]);
    }
    const choose = (value) => {
      this.page.setTerm(name, value);
      menu.open = false;
      menu.querySelector("summary").focus();
    };
    const list = make("div");
    const fill = (wanted) => {
      const found = [];
      for (const [index, total] of this.valueTotals[name]) {
        if (!trace.strings[index].includes(wanted)) continue;
        if (found.length === 60) break;
        const value = trace.strings[index];
        found.push(make("button", { type: "button", onclick: () => choose(value) }, make("span", {}, value), make("small", {}, number.format(total))));
      }
      if (!found.length) found.push(make("button", { type: "button", disabled: true }, make("small", {}, "none")));
      list.replaceChildren(...found);
    };
    const input = make("input", { type: "text", placeholder: `Find a ${name}`, "aria-label": `Find a ${name}`, oninput: () => fill(input.value) });
    const any = parseQuery(this.page.query).some((term) => term.field === name);
    menu.querySelector(".sheet").replaceChildren(input, ...(any ? [make("button", { type: "button", onclick: () => choose(null) }, `Any ${name}`)] : []), list);
    fill("");
    input.focus();
  }
}
