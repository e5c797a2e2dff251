// The painted hole. It is kept as a list of what was painted, so that undo takes the last away and paints the rest
// again. Lengths are the photo's pixels. On its canvas a pixel is opaque white where the photo is to be filled, and
// transparent elsewhere; the file that goes to the server is opaque: white on black.

// Above that, phones refuse a canvas, or it takes too much memory: the hole of a larger photo is painted smaller.
const LIMITS = [25e6, 16.7e6, 4e6];

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), {width, height});
}

// The largest canvas in which this browser really paints: one that is too large stays empty without a word.
function largest(width, height) {
  for (const limit of LIMITS) {
    const scale = Math.min(1, Math.sqrt(limit / (width * height)));
    const made = canvas(Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale)));
    const context = made.getContext("2d");
    if (!context) continue;
    context.fillRect(made.width - 1, made.height - 1, 1, 1);
    if (context.getImageData(made.width - 1, made.height - 1, 1, 1).data[3] !== 255) continue;
    context.clearRect(0, 0, made.width, made.height);
    return made;
  }
  throw new Error("This browser has no memory for a photo of this size.");
}

// Paint one entry of the list: {kind: "stroke", points, size, erase}, {kind: "box", points}, {kind: "picture", picture,
// box}, {kind: "invert"} or {kind: "clear"}. The context's unit is a pixel of the photo, which is width x height.
export function paint(context, entry, width, height) {
  context.save();
  context.fillStyle = context.strokeStyle = "#fff";
  const points = entry.points ?? [];
  if (entry.kind === "stroke") {
    if (entry.erase) context.globalCompositeOperation = "destination-out";
    Object.assign(context, {lineWidth: entry.size, lineCap: "round", lineJoin: "round"});
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  } else if (entry.kind === "box") {
    const [left, right] = [points[0][0], points.at(-1)[0]].sort((a, b) => a - b);
    const [top, bottom] = [points[0][1], points.at(-1)[1]].sort((a, b) => a - b);
    const [x, y] = [Math.floor(left), Math.floor(top)];
    context.fillRect(x, y, Math.max(1, Math.ceil(right) - x), Math.max(1, Math.ceil(bottom) - y));
  } else if (entry.kind === "picture") {
    context.imageSmoothingEnabled = false;
    context.drawImage(entry.picture, ...entry.box);
  } else if (entry.kind === "invert") {
    context.globalCompositeOperation = "source-out"; // white where nothing was, and nothing where white was
    context.fillRect(0, 0, width, height);
  } else {
    context.clearRect(0, 0, width, height);
  }
  context.restore();
}

export class Hole {
  constructor(width, height) {
    [this.width, this.height] = [width, height];
    this.canvas = largest(width, height);
    this._context = this.canvas.getContext("2d");
    this._context.scale(this.canvas.width / width, this.canvas.height / height);
    this.done = [];
    this.undone = [];
  }

  add(entry) {
    this.done.push(entry);
    this.undone = [];
    paint(this._context, entry, this.width, this.height);
  }

  undo() {
    if (!this.done.length) return false;
    this.undone.push(this.done.pop());
    this._context.clearRect(0, 0, this.width, this.height);
    for (const entry of this.done) paint(this._context, entry, this.width, this.height);
    return true;
  }

  redo() {
    if (!this.undone.length) return false;
    this.done.push(this.undone.pop());
    paint(this._context, this.done.at(-1), this.width, this.height);
    return true;
  }

  // Add a mask picture's white parts; throws where it has not the photo's size. Returns whether it had any.
  async addPicture(data) {
    const mask = await createImageBitmap(data).catch(() => {
      throw new Error("This file is no picture that the browser can read; a hole is best a PNG.");
    });
    if (mask.width !== this.width || mask.height !== this.height) {
      const sizes = `The hole is ${mask.width} x ${mask.height}, the photo ${this.width} x ${this.height}`;
      if (Math.abs(mask.width * this.height - mask.height * this.width) > Math.max(this.width, this.height))
        throw new Error(`${sizes}. Choose a hole of the photo's size.`);
    }
    const picture = canvas(this.canvas.width, this.canvas.height);
    const context = picture.getContext("2d", {willReadFrequently: true});
    context.imageSmoothingEnabled = false;
    context.fillRect(0, 0, picture.width, picture.height); // what is transparent is known
    context.drawImage(mask, 0, 0, picture.width, picture.height);
    mask.close();
    const box = whiteAlone(context, picture.width, picture.height);
    if (!box) return false;
    const [x, y, width, height] = box;
    const cut = canvas(width, height);
    cut.getContext("2d").drawImage(picture, -x, -y);
    const [across, down] = [this.width / picture.width, this.height / picture.height];
    this.add({kind: "picture", picture: cut, box: [x * across, y * down, width * across, height * down]});
    return true;
  }

  // The hole as a PNG file: white where the photo is to be filled, black elsewhere, without alpha.
  async file() {
    const whole = canvas(this.canvas.width, this.canvas.height);
    const context = whole.getContext("2d", {alpha: false});
    context.fillStyle = "#000";
    context.fillRect(0, 0, whole.width, whole.height);
    context.drawImage(this.canvas, 0, 0);
    return new Promise((done) => whole.toBlob(done, "image/png"));
  }

  // About which share of the photo is missing, 0 to 1.
  share() {
    const small = canvas(128, 128);
    const context = small.getContext("2d", {willReadFrequently: true});
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.canvas, 0, 0, 128, 128);
    const {data} = context.getImageData(0, 0, 128, 128);
    let sum = 0;
    for (let place = 3; place < data.length; place += 4) sum += data[place];
    return sum / (255 * 128 * 128);
  }
}

// Make what is brighter than 127 opaque white, the rest transparent. The box of the white parts, null where none is.
function whiteAlone(context, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  const rows = 256; // at once: a whole photo would take much memory
  for (let first = 0; first < height; first += rows) {
    const strip = context.getImageData(0, first, width, Math.min(rows, height - first));
    const pixels = new Uint32Array(strip.data.buffer);
    for (let place = 0; place < pixels.length; place++) {
      if (strip.data[4 * place + 1] <= 127) {
        pixels[place] = 0;
        continue;
      }
      pixels[place] = 0xffffffff;
      const [x, y] = [place % width, first + Math.floor(place / width)];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    context.putImageData(strip, 0, first);
  }
  return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
}
