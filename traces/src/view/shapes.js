// Pictures that are drawn once and used many times.

/** A disc, ring, diamond or bare dot of an event. */
function makeSprite(shape, colour, ground, size, ratio) {
  const sprite = document.createElement("canvas");
  const side = Math.ceil((size + 2) * 2 * ratio);
  sprite.width = sprite.height = side;
  const g = sprite.getContext("2d");
  g.translate(side / 2, side / 2);
  g.scale(ratio, ratio);
  g.beginPath();
  if (shape === "diamond") {
    const d = size * 1.2;
    g.moveTo(0, -d);
    g.lineTo(d, 0);
    g.lineTo(0, d);
    g.lineTo(-d, 0);
    g.closePath();
  } else {
    g.arc(0, 0, shape === "ring" ? size - 0.5 : size, 0, 2 * Math.PI);
  }
  if (shape === "ring") {
    g.fillStyle = ground;
    g.fill();
    g.lineWidth = Math.min(1.75, size / 2);
    g.strokeStyle = colour;
    g.stroke();
  } else {
    g.fillStyle = colour;
    g.fill();
  }
  return sprite;
}

/** A colour as the little-endian word of a pixel. */
function word(colour) {
  const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
  return ((Math.round(a * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
