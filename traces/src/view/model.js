// The trace as typed arrays, what happened before what, and which events pass a filter.
// Nothing here knows the page.

const LEVELS = ["error", "warn", "info", "debug", "trace"];

/** The first place in `list[from..to)` whose value is not below `wanted`. */
function lowerBound(list, wanted, from, to) {
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (list[middle] < wanted) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** The end of the run that starts at `from` and stays below `limit`: near ends are found fast. */
function gallop(list, limit, from, to) {
  let low = from + 1;
  let step = 1;
  let high = low;
  while (high < to && list[high] < limit) {
    low = high + 1;
    high += step;
    step *= 2;
  }
  return lowerBound(list, limit, low, Math.min(high, to));
}

/** Some of the events, process by process, each in the order of its clock. */
class Lists {
  constructor(trace, accept) {
    const { size, process } = trace;
    this.start = new Int32Array(trace.processes.length + 1);
    let total = 0;
    for (let i = 0; i < size; i++) {
      if (!accept || accept[i]) {
        this.start[process[i] + 1]++;
        total++;
      }
    }
    for (let p = 0; p < trace.processes.length; p++) this.start[p + 1] += this.start[p];
    this.total = total;
    this.events = new Int32Array(total);
    this.times = new Float64Array(total);
    const next = this.start.slice();
    for (let i = 0; i < size; i++) {
      if (accept && !accept[i]) continue;
      const place = next[process[i]]++;
      this.events[place] = i;
      this.times[place] = trace.at[i];
    }
  }

  /** Where the events of a process in `[t0, t1)` stand in the list. */
  range(p, t0, t1) {
    const from = lowerBound(this.times, t0, this.start[p], this.start[p + 1]);
    return [from, lowerBound(this.times, t1, from, this.start[p + 1])];
  }

  /** The event of a process that is nearest to `t`, or -1. */
  nearest(p, t) {
    const from = this.start[p];
    const to = this.start[p + 1];
    if (from === to) return -1;
    const place = lowerBound(this.times, t, from, to);
    if (place === from) return this.events[from];
    if (place === to || t - this.times[place - 1] <= this.times[place] - t) return this.events[place - 1];
    return this.events[place];
  }
}

/** Messages by the time they were sent, in blocks, so that the ones in a window are found fast. */
class Messages {
  static BLOCK = 256;

  constructor(trace, accept) {
    const sends = [];
    const receives = [];
    for (let i = 0; i < trace.size; i++) {
      for (let r = trace.firstReceive[i]; r >= 0; r = trace.nextReceive[r]) {
        if (!accept || accept(i, r)) {
          sends.push(i);
          receives.push(r);
        }
      }
    }
    this.total = sends.length;
    this.sends = Int32Array.from(sends);
    this.receives = Int32Array.from(receives);
    const blocks = Math.ceil(this.total / Messages.BLOCK);
    this.starts = new Float64Array(blocks).fill(Infinity);
    this.ends = new Float64Array(blocks).fill(-Infinity);
    for (let m = 0; m < this.total; m++) {
      const b = Math.floor(m / Messages.BLOCK);
      const sent = trace.at[sends[m]];
      const received = trace.at[receives[m]];
      this.starts[b] = Math.min(this.starts[b], sent, received);
      this.ends[b] = Math.max(this.ends[b], sent, received);
    }
  }

  /** The numbers of the messages under way in `[t0, t1]`; null when they are more than `most`. */
  within(trace, t0, t1, most) {
    const found = [];
    for (let b = 0; b < this.starts.length; b++) {
      if (this.starts[b] > t1 || this.ends[b] < t0) continue;
      const end = Math.min(this.total, (b + 1) * Messages.BLOCK);
      for (let m = b * Messages.BLOCK; m < end; m++) {
        const sent = trace.at[this.sends[m]];
        const received = trace.at[this.receives[m]];
        if (Math.min(sent, received) > t1 || Math.max(sent, received) < t0) continue;
        if (found.length === most) return null;
        found.push(m);
      }
    }
    return found;
  }
}

/**
 * What happened before what. For each channel, a pair of processes with messages, it keeps how far a
 * prefix of the receiver reaches back into the sender, and how early a suffix of the sender
 * reaches the receiver. A cone is then found in a few rounds over the channels, with a binary search
 * each: no causal path needs to visit a process twice, so there are never more rounds than processes.
 */
class Causality {
  constructor(trace) {
    this.trace = trace;
    this.count = trace.processes.length;
    this.incoming = Array.from({ length: this.count }, () => []);
    this.outgoing = Array.from({ length: this.count }, () => []);
    const channels = new Map();
    const channel = (sender, receiver) => {
      const name = sender * this.count + receiver;
      let found = channels.get(name);
      if (!found) {
        found = { sender, receiver, received: [], reach: [], sent: [], arrives: [] };
        channels.set(name, found);
        this.incoming[receiver].push(found);
        this.outgoing[sender].push(found);
      }
      return found;
    };
    const { process, place, from, size } = trace;
    for (let i = 0; i < size; i++) {
      const s = from[i];
      if (s >= 0 && process[s] !== process[i]) {
        const c = channel(process[s], process[i]);
        const last = c.reach.length ? c.reach[c.reach.length - 1] : -1;
        c.received.push(place[i]);
        c.reach.push(Math.max(last, place[s]));
      }
      for (let r = trace.firstReceive[i]; r >= 0; r = trace.nextReceive[r]) {
        if (process[r] === process[i]) continue;
        const c = channel(process[i], process[r]);
        c.sent.push(place[i]);
        c.arrives.push(place[r]);
      }
    }
    for (const c of channels.values()) {
      for (let k = c.arrives.length - 2; k >= 0; k--) {
        c.arrives[k] = Math.min(c.arrives[k], c.arrives[k + 1]);
      }
      for (const column of ["received", "reach", "sent", "arrives"]) c[column] = Int32Array.from(c[column]);
    }
  }

  /**
   * The cone of an event: of each process the last place of its past (-1: none), and the first of its
   * future (its number of events: none). The event itself is in neither.
   */
  cone(event) {
    const { process, place, length } = this.trace;
    const own = process[event];
    const past = new Int32Array(this.count).fill(-1);
    const future = Int32Array.from(length);
    past[own] = future[own] = place[event];
    this.spread(own, this.incoming, (c) => {
      const k = lowerBound(c.received, past[c.receiver] + 1, 0, c.received.length) - 1;
      if (k < 0 || c.sender === own || c.reach[k] <= past[c.sender]) return -1;
      past[c.sender] = c.reach[k];
      return c.sender;
    });
    this.spread(own, this.outgoing, (c) => {
      const k = lowerBound(c.sent, future[c.sender], 0, c.sent.length);
      if (k === c.sent.length || c.receiver === own || c.arrives[k] >= future[c.receiver]) return -1;
      future[c.receiver] = c.arrives[k];
      return c.receiver;
    });
    // What the past of the own process ends with is the event before this one.
    past[own] -= 1;
    future[own] += 1;
    let before = 0;
    let after = 0;
    for (let p = 0; p < this.count; p++) {
      // Files that contradict each other can put an event on both sides: it counts as past.
      future[p] = Math.max(future[p], past[p] + 1);
      before += past[p] + 1;
      after += length[p] - future[p];
    }
    return { event, past, future, before, after, concurrent: this.trace.size - 1 - before - after };
  }

  spread(first, channels, step) {
    const waiting = [first];
    while (waiting.length) {
      for (const c of channels[waiting.shift()]) {
        const moved = step(c);
        if (moved >= 0 && !waiting.includes(moved)) waiting.push(moved);
      }
    }
  }
}

/** Where an event stands to a cone: -1 past, 0 the event itself, 1 future, 2 concurrent. */
function side(trace, cone, event) {
  if (event === cone.event) return 0;
  const p = trace.process[event];
  if (trace.place[event] <= cone.past[p]) return -1;
  return trace.place[event] >= cone.future[p] ? 1 : 2;
}

/** The document, checked and in columns. */
class Trace {
  constructor(doc) {
    const columns = doc.events || {};
    const size = (columns.process || []).length;
    for (const name of ["process", "at", "kind", "level", "from", "text", "key", "request"]) {
      if ((columns[name] || []).length !== size) throw new Error(`the column "${name}" of the events has another length`);
    }
    this.size = size;
    this.title = doc.title || "";
    this.processes = doc.processes || [];
    this.kinds = doc.kinds || [];
    this.sendKinds = this.kinds.map((name) => /^send/.test(name));
    this.receiveKinds = this.kinds.map((name) => /^rec/.test(name));
    this.strings = doc.strings || [];
    this.findings = doc.findings ? [...doc.findings] : [];
    this.startMicros = BigInt(doc.start_unix_ns || 0) / 1000n;
    this.process = Uint16Array.from(columns.process || []);
    this.at = Float64Array.from(columns.at || []);
    this.kind = Uint16Array.from(columns.kind || []);
    this.level = Uint8Array.from(columns.level || []);
    this.from = Int32Array.from(columns.from || []);
    this.text = Int32Array.from(columns.text || []);
    this.key = Int32Array.from(columns.key || []);
    this.request = Int32Array.from(columns.request || []);
    this.takeSpans(doc.spans || {});
    this.order();
    this.pair();
    this.nameCalls();
    this.all = new Lists(this);
    this.causality = new Causality(this);
  }

  takeSpans(columns) {
    this.spans = {
      size: (columns.process || []).length,
      process: Uint16Array.from(columns.process || []),
      name: Int32Array.from(columns.name || []),
      start: Float64Array.from(columns.start || []),
      end: Float64Array.from(columns.end || []),
      request: Int32Array.from(columns.request || []),
      text: Int32Array.from(columns.text || []),
    };
  }

  /** Places in the clocks, the ends of each process, and the time as it is drawn. */
  order() {
    const count = this.processes.length;
    this.place = new Int32Array(this.size);
    this.length = new Int32Array(count);
    this.begin = new Float64Array(count).fill(Infinity);
    this.end = new Float64Array(count).fill(-Infinity);
    for (let i = 0; i < this.size; i++) {
      const p = this.process[i];
      if (p >= count) throw new Error(`event ${i} names a process that is not there`);
      this.place[i] = this.length[p]++;
      // Within a process time only rises, whatever its clock on the wall did.
      this.at[i] = Math.max(this.at[i], this.end[p]);
      this.begin[p] = Math.min(this.begin[p], this.at[i]);
      this.end[p] = this.at[i];
    }
    const { start, end, size } = this.spans;
    let [from, to] = [Infinity, -Infinity];
    for (let p = 0; p < count; p++) {
      from = Math.min(from, this.begin[p]);
      to = Math.max(to, this.end[p]);
    }
    for (let s = 0; s < size; s++) {
      if (this.spans.process[s] >= count) throw new Error(`span ${s} names a process that is not there`);
      from = Math.min(from, start[s]);
      to = Math.max(to, end[s]);
    }
    this.first = from <= to ? from : 0;
    this.last = from <= to ? to : 0;
  }

  pair() {
    this.firstReceive = new Int32Array(this.size).fill(-1);
    this.nextReceive = new Int32Array(this.size).fill(-1);
    let wrong = 0;
    this.messageTotal = 0;
    for (let i = this.size - 1; i >= 0; i--) {
      const s = this.from[i];
      if (s < 0) continue;
      if (s >= this.size || s === i) {
        this.from[i] = -1;
        wrong++;
        continue;
      }
      this.messageTotal++;
      this.nextReceive[i] = this.firstReceive[s];
      this.firstReceive[s] = i;
    }
    if (wrong) this.findings.push(`${wrong} receives name a send that is not in this page; they are drawn without an arrow`);
  }

  /** The name of the call in `rpc=`, or of the kind: what colours and the filter of calls go by. */
  nameCalls() {
    const names = new Map();
    const ofText = new Int32Array(this.strings.length).fill(-2);
    const number = (name) => {
      if (!names.has(name)) names.set(name, names.size);
      return names.get(name);
    };
    this.call = new Int32Array(this.size);
    this.callTotals = [];
    this.kindTotals = new Array(this.kinds.length).fill(0);
    for (let i = 0; i < this.size; i++) {
      const t = this.text[i];
      if (ofText[t] === -2) {
        const name = field(this.strings[t] || "", "rpc");
        ofText[t] = name === null ? -1 : number(name);
      }
      const c = t >= 0 && ofText[t] >= 0 ? ofText[t] : number(this.kinds[this.kind[i]]);
      this.call[i] = c;
      this.callTotals[c] = (this.callTotals[c] || 0) + 1;
      this.kindTotals[this.kind[i]]++;
    }
    this.calls = [...names.keys()];
  }

  isSend(i) {
    return this.firstReceive[i] >= 0 || this.sendKinds[this.kind[i]];
  }

  isReceive(i) {
    return this.from[i] >= 0 || this.receiveKinds[this.kind[i]];
  }

  /** The messages between all processes. */
  get messages() {
    this.everyMessage ??= new Messages(this);
    return this.everyMessage;
  }

  string(index) {
    return index >= 0 ? this.strings[index] : "";
  }

  /** The count of an event in its process's clock; a process whose head is lost may start above 1. */
  countOf(p, place) {
    return place + (this.processes[p].first || 1);
  }

  /** Microseconds since the start, as UTC to the microsecond. */
  wallTime(at) {
    const micros = this.startMicros + BigInt(Math.round(at));
    const text = new Date(Number(micros / 1000n)).toISOString();
    return `${text.slice(0, 10)} ${text.slice(11, 23)}${String(micros % 1000n).padStart(3, "0")} UTC`;
  }
}

/** The value of `name=` in an event's text, or null. */
function field(text, name) {
  let at = text.indexOf(`${name}=`);
  while (at > 0 && text[at - 1] !== " ") at = text.indexOf(`${name}=`, at + 1);
  if (at < 0) return null;
  const from = at + name.length + 1;
  const end = text.indexOf(" ", from);
  return text.slice(from, end < 0 ? text.length : end);
}

/** An event's text as fields and free words: `[{name, value}]`, the words under the name "". */
function fields(text) {
  const found = [];
  const words = [];
  for (const [, name, value, word] of text.matchAll(/([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)|(\S+)/g)) {
    if (name === undefined) words.push(word);
    else found.push({ name, value: unquoted(value) });
  }
  if (words.length) found.push({ name: "", value: words.join(" ") });
  return found;
}

function unquoted(value) {
  if (!value.startsWith('"')) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

const FIELDS = ["key", "request", "host", "kind", "call", "level", "text"];

/** `key:a -call:beat words "two words"` as terms that all have to hold. */
function parseQuery(query) {
  const terms = [];
  for (const [, not, name, quoted, plain] of query.matchAll(/(-?)(?:([a-z]+):)?(?:"([^"]*)"|(\S+))/g)) {
    const value = quoted ?? plain;
    const known = FIELDS.includes(name);
    terms.push({
      not: not === "-",
      field: known ? name : "text",
      value: known || !name ? value : `${name}:${value}`,
    });
  }
  return terms;
}

const quote = (value) => (/^[^\s"]+$/.test(value) ? value : `"${value.replaceAll('"', "")}"`);

function escaped(text) {
  return text.replace(/[.+?^${}()|[\]\\]/g, "\\$&");
}

/** Keys and requests are given whole, with `*` for anything; the rest may be a part. */
function pattern({ field: name, value }) {
  const whole = name === "key" || name === "request";
  const source = whole ? `^${escaped(value).replaceAll("*", ".*")}$` : escaped(value).replaceAll("*", "\\*");
  return new RegExp(source, whole ? "" : "i");
}

/**
 * Which events are shown, and which of them match the search. `hidden` has sets of hosts, kinds, calls and
 * levels. Long searches give way every few milliseconds, and give up when `stale()`.
 */
async function filtered(trace, query, hidden, stale) {
  const terms = parseQuery(query);
  const hosts = trace.processes.map((process) => !hidden.hosts.has(process.host));
  const plain = !terms.length && !hidden.kinds.size && !hidden.calls.size && !hidden.levels.size;
  if (plain && hosts.every(Boolean)) {
    return { shown: trace.all, matched: trace.all, messages: trace.messages, terms };
  }
  const tests = [];
  for (const term of terms) {
    const test = await termTest(trace, term, stale);
    if (!test) return null;
    tests.push(term.not ? (i) => !test(i) : test);
  }
  const shown = new Uint8Array(trace.size);
  const matched = terms.length ? new Uint8Array(trace.size) : shown;
  const kinds = trace.kinds.map((name) => !hidden.kinds.has(name));
  const calls = trace.calls.map((name) => !hidden.calls.has(name));
  const levels = LEVELS.map((name) => !hidden.levels.has(name));
  for (let i = 0; i < trace.size; i++) {
    const passes = hosts[trace.process[i]] && kinds[trace.kind[i]] && calls[trace.call[i]] && levels[trace.level[i]] !== false;
    if (!passes) continue;
    shown[i] = 1;
    if (terms.length) matched[i] = tests.every((test) => test(i)) ? 1 : 0;
  }
  const lists = new Lists(trace, shown);
  return {
    shown: lists,
    matched: terms.length ? new Lists(trace, matched) : lists,
    // An arrow is drawn between hosts that are shown, when one of its ends matches.
    messages: new Messages(trace, (s, r) => {
      return hosts[trace.process[s]] && hosts[trace.process[r]] && (matched[s] || matched[r]) === 1;
    }),
    terms,
  };
}

async function termTest(trace, term, stale) {
  const wanted = pattern(term);
  const names = (list) => list.map((name) => wanted.test(name));
  const hosts = names(trace.processes.map((process) => process.name));
  switch (term.field) {
    case "host":
      return (i) => hosts[trace.process[i]];
    case "level": {
      const levels = names(LEVELS);
      return (i) => levels[trace.level[i]];
    }
    case "kind": {
      const kinds = names(trace.kinds);
      return (i) => kinds[trace.kind[i]];
    }
    case "call": {
      const calls = names(trace.calls);
      return (i) => calls[trace.call[i]];
    }
  }
  const strings = new Uint8Array(trace.strings.length);
  let until = performance.now() + 8;
  for (let s = 0; s < strings.length; s++) {
    strings[s] = wanted.test(trace.strings[s]) ? 1 : 0;
    if ((s & 1023) === 0 && performance.now() > until) {
      await new Promise((go) => setTimeout(go));
      if (stale()) return null;
      until = performance.now() + 8;
    }
  }
  const has = (index) => index >= 0 && strings[index] === 1;
  if (term.field === "key") return (i) => has(trace.key[i]);
  if (term.field === "request") return (i) => has(trace.request[i]);
  const kinds = names(trace.kinds);
  return (i) => has(trace.text[i]) || has(trace.key[i]) || has(trace.request[i]) || hosts[trace.process[i]] || kinds[trace.kind[i]];
}

/** The host, packed into as few lines as its incarnations need; or a line for each. */
function makeLanes(trace, hiddenHosts, folded) {
  const rank = { server: 0, node: 1, coordinator: 1, client: 3 };
  const natural = new Intl.Collator("en", { numeric: true });
  const groups = new Map();
  trace.processes.forEach((process, p) => {
    if (hiddenHosts.has(process.host)) return;
    if (!groups.has(process.host)) groups.set(process.host, []);
    groups.get(process.host).push(p);
  });
  const order = [...groups].sort(([a, [p]], [b, [q]]) => {
    const [ra, rb] = [p, q].map((x) => rank[trace.processes[x].role] ?? 2);
    return ra - rb || natural.compare(a, b);
  });
  const lanes = [];
  for (const [host, members] of order) {
    members.sort((p, q) => trace.processes[p].incarnation - trace.processes[q].incarnation);
    const own = [];
    for (const p of members) {
      const free = folded && own.find((lane) => trace.end[lane.members.at(-1)] <= trace.begin[p]);
      if (free) free.members.push(p);
      else own.push({ host, members: [p], first: own.length === 0, group: members });
    }
    lanes.push(...own);
  }
  return lanes;
}

/** A time of the trace, as exact as the step asks for, in the unit that fits the trace. */
function instant(t, step, trace) {
  const whole = Math.max(Math.abs(trace.last), Math.abs(trace.first));
  const [unit, micros] = whole < 1e3 ? ["µs", 1] : whole < 1e6 ? ["ms", 1e3] : ["s", 1e6];
  const decimals = Math.max(0, Math.ceil(-Math.log10(step / micros) - 1e-9));
  return `${(t / micros).toFixed(Math.min(9, decimals))} ${unit}`;
}

/** A length of time for reading. */
function duration(micros) {
  const size = Math.abs(micros);
  if (size < 1e3) return `${Number(micros.toPrecision(3))} µs`;
  if (size < 1e6) return `${Number((micros / 1e3).toPrecision(3))} ms`;
  return `${Number((micros / 1e6).toPrecision(4))} s`;
}
