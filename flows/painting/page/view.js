// What the stage shows: the photo, its filled holes and the painted hole, at any zoom. The photo and the filled holes
// are <img> in the photo's own pixels, which one transform places; the hole is drawn over them as stripes.

import {paint} from "./hole.js";

const CLOSEST = 40; // screen pixels a pixel of the photo

export class View {
  constructor(stage) {
    this.stage = stage;
    [this.world, this.overlay] = [stage.querySelector("#world"), stage.querySelector("#overlay")];
    this.context = this.overlay.getContext("2d");
    this.hole = null; // a Hole
    this.gesture = null; // what is just being painted, an entry as in hole.js
    this.pen = null; // {x, y, size, down}: the keyboard's, or the ring round the mouse's
    this.bare = false; // the original alone is shown
    this.split = 0; // up to which share of the photo's width the original is shown
    this._fitted = true;
    new ResizeObserver(() => this._fitted ? this.fit() : this.draw()).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(hole) {
    this.hole = hole;
    Object.assign(this.world.style, {width: `${hole.width}px`, height: `${hole.height}px`});
    this.world.hidden = false;
    this.fit();
  }

  fit() {
    if (!this.hole) return this.draw();
    const {clientWidth: wide, clientHeight: tall} = this.stage;
    this.scale = Math.min(wide / this.hole.width, tall / this.hole.height) * 0.96;
    this.x = (wide - this.hole.width * this.scale) / 2;
    this.y = (tall - this.hole.height * this.scale) / 2;
    this._fitted = true;
    this.draw();
  }

  // Zoom by a factor; the place (x, y) of the stage stays where it is.
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.hole) return;
    const least = 16 / Math.max(this.hole.width, this.hole.height);
    const scale = Math.min(CLOSEST, Math.max(least, this.scale * factor));
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.move(0, 0);
  }

  move(right, down) {
    const keep = 40; // so much of the photo stays in sight
    const inside = (place, length, room) => Math.min(room - keep, Math.max(keep - length, place));
    this.x = inside(this.x + right, this.hole.width * this.scale, this.stage.clientWidth);
    this.y = inside(this.y + down, this.hole.height * this.scale, this.stage.clientHeight);
    this._fitted = false;
    this.draw();
  }

  // A place of the window in the stage, and in the photo.
  inStage(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  inPhoto(event) {
    const [x, y] = this.inStage(event);
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  // Move the photo so that a place of it is in sight.
  reveal(x, y) {
    const edge = 30;
    const needed = (place, room) => place < edge ? edge - place : place > room - edge ? room - edge - place : 0;
    const right = needed(this.x + x * this.scale, this.stage.clientWidth);
    const down = needed(this.y + y * this.scale, this.stage.clientHeight);
    if (right || down) this.move(right, down);
  }

  // Draw before the next frame; as often as one likes.
  draw() {
    this._asked ??= requestAnimationFrame(() => {
      this._asked = null;
      this._draw();
    });
  }

  _draw() {
    const {stage, world, overlay, context, hole} = this;
    const dense = devicePixelRatio || 1;
    const [wide, tall] = [Math.round(stage.clientWidth * dense), Math.round(stage.clientHeight * dense)];
    if (overlay.width !== wide || overlay.height !== tall) Object.assign(overlay, {width: wide, height: tall});
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, wide, tall);
    if (!hole) return;
    world.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    world.classList.toggle("pixels", this.scale >= 3);
    const patches = world.querySelector("#patches");
    patches.hidden = this.bare;
    patches.style.clipPath = this.split ? `inset(0 0 0 ${this.split * 100}%)` : "";
    const divider = stage.querySelector("#divider");
    divider.hidden = this.bare || this.split <= 0 || this.split >= 1;
    divider.style.left = `${this.x + this.split * hole.width * this.scale}px`;
    if (this.bare) return;
    const scale = this.scale * dense;
    context.setTransform(scale, 0, 0, scale, this.x * dense, this.y * dense);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(hole.canvas, 0, 0, hole.width, hole.height);
    if (this.gesture) paint(context, this.gesture, hole.width, hole.height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = this._stripes(dense);
    context.fillRect(0, 0, wide, tall);
    context.globalCompositeOperation = "source-over";
    if (this.pen) this._drawPen(dense);
  }

  // Stripes of two colours, which are seen on any photo.
  _stripes(dense) {
    if (this._made?.dense === dense) return this._made.pattern;
    const side = Math.round(12 * dense);
    const tile = Object.assign(document.createElement("canvas"), {width: side, height: side});
    const context = tile.getContext("2d");
    context.fillStyle = "rgb(214 0 110 / 0.62)";
    context.fillRect(0, 0, side, side);
    Object.assign(context, {strokeStyle: "rgb(255 255 255 / 0.75)", lineWidth: side / 6});
    context.beginPath();
    for (const shift of [-side, 0, side]) {
      context.moveTo(shift - 1, side + 1);
      context.lineTo(shift + side + 1, -1);
    }
    context.stroke();
    this._made = {dense, pattern: this.context.createPattern(tile, "repeat")};
    return this._made.pattern;
  }

  _drawPen(dense) {
    const {context, pen} = this;
    const [x, y] = [(this.x + pen.x * this.scale) * dense, (this.y + pen.y * this.scale) * dense];
    const radius = Math.max(3 * dense, pen.size * this.scale * dense / 2);
    for (const [color, width] of [["#000", 3], ["#fff", 1]]) {
      Object.assign(context, {strokeStyle: color, lineWidth: width * dense});
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      if (pen.keys) {
        const reach = radius + 8 * dense;
        for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(x + right * (pen.down ? 0 : radius), y + down * (pen.down ? 0 : radius));
          context.lineTo(x + right * reach, y + down * reach);
        }
      }
      context.stroke();
    }
  }
}
