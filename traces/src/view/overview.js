// The overview below the diagram: the whole trace, and where the window is in it.

/** The overview: every process as a thin row of densities, drawn once for each filter and size. */
class Overview {
  constructor(canvas, diagram) {
    this.canvas = canvas;
    this.diagram = diagram;
    this.context = canvas.getContext("2d");
    this.picture = document.createElement("canvas").getContext("2d");
  }

  refresh() {
    const { canvas, diagram, picture } = this;
    const { trace, lanes, lists } = diagram;
    const ratio = diagram.ratio;
    this.width = Math.max(1, canvas.clientWidth);
    this.height = Math.max(1, canvas.clientHeight);
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    const [w, h] = [Math.ceil(this.width), Math.ceil(this.height)];
    picture.canvas.width = w;
    picture.canvas.height = h;
    picture.clearRect(0, 0, w, h);
    const row = (this.height - 8) / Math.max(1, lanes.length);
    picture.fillStyle = diagram.colours.density;
    lanes.forEach((lane, n) => {
      for (const p of lane.members) {
        const { times, start } = lists.matched;
        const pixel = (trace.last - trace.first || 1) / this.width;
        for (let k = start[p]; k < start[p + 1]; ) {
          const column = Math.floor((times[k] - trace.first) / pixel);
          const next = Math.max(k + 1, gallop(times, trace.first + (column + 1) * pixel, k, start[p + 1]));
          picture.globalAlpha = Math.min(1, 0.25 + Math.log2(next - k + 1) / 12);
          picture.fillRect(Math.min(column, w - 1), 4 + n * row, 1, Math.max(1, row - (row > 3 ? 1 : 0)));
          k = next;
        }
      }
    });
    this.draw();
  }

  x(t) {
    const { first, last } = this.diagram.trace;
    return ((t - first) / (last - first || 1)) * this.width;
  }

  draw() {
    const { context: g, diagram } = this;
    const { colours, trace } = diagram;
    g.setTransform(diagram.ratio, 0, 0, diagram.ratio, 0, 0);
    g.clearRect(0, 0, this.width, this.height);
    g.drawImage(this.picture.canvas, 0, 0);
    const [from, to] = [Math.max(0, this.x(diagram.t0)), Math.min(this.width, this.x(diagram.t1))];
    g.fillStyle = colours.canvas;
    g.globalAlpha = 0.6;
    g.fillRect(0, 0, from, this.height);
    g.fillRect(to, 0, this.width - to, this.height);
    g.globalAlpha = 1;
    g.strokeStyle = colours.accent;
    g.lineWidth = 1.5;
    g.beginPath();
    g.roundRect(from + 0.75, 0.75, Math.max(3, to - from - 1.5), this.height - 1.5, 3);
    g.stroke();
    if (diagram.selected >= 0) {
      g.fillStyle = colours.ink;
      g.fillRect(Math.round(this.x(trace.at[diagram.selected])) - 0.75, 0, 1.5, this.height);
    }
  }
}
