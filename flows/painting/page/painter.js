// From the mouse, fingers, a stylus, the wheel and keys to what is painted, and to zoom.

const SPARE = 1.25; // how much one key or one notch of the wheel changes the brush

export class Painter {
  // `tell(text)` is for screen readers; `changed()` is called when the hole has changed.
  constructor(view, {tell, changed}) {
    Object.assign(this, {view, tell, changed});
    this.tool = "brush";
    this.size = 20; // the brush's, in pixels of the photo
    this._pointers = new Map(); // those that are down: id -> [x, y] in the stage
    this._space = false;
    const {stage} = view;
    for (const kind of ["down", "move", "up", "cancel", "leave"])
      stage.addEventListener(`pointer${kind}`, (event) => view.hole && this[`_${kind}`](event));
    stage.addEventListener("wheel", (event) => this._wheel(event), {passive: false});
    stage.addEventListener("keydown", (event) => this._key(event));
    stage.addEventListener("blur", () => this._space = false);
    stage.addEventListener("keyup", (event) => event.key === " " && (this._space = false));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // The brush's largest and smallest size go by the photo's.
  get sizes() {
    const {width, height} = this.view.hole ?? {width: 400, height: 400};
    return [1, Math.max(8, Math.min(width, height) / 2)];
  }

  resize(size) {
    const [least, most] = this.sizes;
    this.size = Math.min(most, Math.max(least, size));
    if (this.view.pen) this.view.pen.size = this._ring();
    this.view.draw();
    this.sized?.();
  }

  larger(steps = 1) {
    const size = this.size * SPARE ** steps;
    this.resize(this.size < 4 && Math.abs(size - this.size) < 1 ? this.size + Math.sign(steps) : size);
  }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    this.view.stage.classList.toggle("moving", tool === "move");
    if (this.view.pen) this.view.pen.size = this._ring();
    this.view.draw();
  }

  // Forget what is just being painted.
  cancel() {
    const was = this.view.gesture !== null;
    this.view.gesture = null;
    if (this.view.pen) this.view.pen.down = false;
    this.view.draw();
    return was;
  }

  _ring() {
    return this.tool === "rectangle" || this.tool === "move" ? 0 : this.size;
  }

  _begin(point) {
    const kind = this.tool === "rectangle" ? "box" : "stroke";
    this.view.gesture = {kind, points: [point], size: this.size, erase: this.tool === "eraser"};
    this.view.draw();
  }

  _extend(point) {
    const {gesture} = this.view;
    if (this.tool === "brush" || this.tool === "eraser") gesture.points.push(point);
    else gesture.points = [gesture.points[0], point];
    this.view.draw();
  }

  _end() {
    const {gesture, hole} = this.view;
    this.view.gesture = null;
    hole.add(gesture);
    this.view.draw();
    this.changed();
  }

  _down(event) {
    if (event.target.id === "divider") return;
    const {view} = this;
    view.stage.setPointerCapture(event.pointerId);
    this._pointers.set(event.pointerId, view.inStage(event));
    if (this._pointers.size > 1) return this.cancel(); // two fingers move the photo
    this._moving = this.tool === "move" || this._space || event.button === 1;
    if (this._moving || event.button > 1) return;
    view.pen = null;
    this._begin(view.inPhoto(event));
  }

  _move(event) {
    const {view} = this;
    const before = this._pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse" && !view.pen?.down) { // the keyboard's pen stays where it is down
        const [x, y] = view.inPhoto(event);
        view.pen = this.tool === "move" ? null : {x, y, size: this._ring()};
        view.draw();
      }
      return;
    }
    const now = view.inStage(event);
    if (this._pointers.size === 2) this._pinch(event.pointerId, before, now);
    else if (this._moving) view.move(now[0] - before[0], now[1] - before[1]);
    else if (view.gesture)
      for (const one of event.getCoalescedEvents?.() ?? [event]) this._extend(view.inPhoto(one));
    this._pointers.set(event.pointerId, now);
  }

  _pinch(id, before, now) {
    const [, other] = [...this._pointers].find(([key]) => key !== id);
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const middle = (point) => [(point[0] + other[0]) / 2, (point[1] + other[1]) / 2];
    const [from, to] = [middle(before), middle(now)];
    this.view.move(to[0] - from[0], to[1] - from[1]);
    this.view.zoom(apart(now) / Math.max(apart(before), 1), ...to);
  }

  _up(event) {
    this._pointers.delete(event.pointerId);
    if (this.view.gesture && !this._pointers.size) this._end();
  }

  _cancel(event) {
    this._pointers.delete(event.pointerId);
    this.cancel();
  }

  _leave() {
    if (this.view.pen?.keys) return;
    this.view.pen = null;
    this.view.draw();
  }

  _wheel(event) {
    if (!this.view.hole) return;
    event.preventDefault();
    const turned = event.deltaY || event.deltaX; // with Shift some browsers turn it sideways
    if (event.shiftKey) this.larger(-Math.sign(turned));
    else this.view.zoom(Math.exp(-Math.max(-200, Math.min(200, turned)) / 400), ...this.view.inStage(event));
  }

  // The keyboard's pen: arrows move it, Enter puts it down and lifts it.
  _key(event) {
    const {view} = this;
    if (!view.hole || event.ctrlKey || event.metaKey || event.altKey) return;
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.key === " ") this._space = true;
    else if (way && this.tool === "move") view.move(-40 * way[0], -40 * way[1]);
    else if (way) this._movePen(way, event.shiftKey ? 1 : Math.max(1, this.size / 4));
    else if (event.key === "Enter" && this.tool !== "move") this._penDownOrUp();
    else return;
    event.preventDefault();
  }

  _keyPen() {
    const {view} = this;
    if (!view.pen?.keys) view.pen = {x: view.hole.width / 2, y: view.hole.height / 2, size: this._ring(), keys: true};
    return view.pen;
  }

  _movePen([right, down], step) {
    const {view} = this;
    const pen = this._keyPen();
    pen.x = Math.min(view.hole.width, Math.max(0, pen.x + right * step));
    pen.y = Math.min(view.hole.height, Math.max(0, pen.y + down * step));
    if (pen.down) this._extend([pen.x, pen.y]);
    view.reveal(pen.x, pen.y);
    view.draw();
    this.tell(`${Math.round(pen.x)}, ${Math.round(pen.y)}${pen.down ? ", pen down" : ""}`);
  }

  _penDownOrUp() {
    const pen = this._keyPen();
    pen.down = !pen.down;
    if (pen.down) {
      this._begin([pen.x, pen.y]);
      this.tell(`Pen down at ${Math.round(pen.x)}, ${Math.round(pen.y)}`);
    } else {
      this._end();
    }
  }
}
