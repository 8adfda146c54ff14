// The image on the screen, with masks over it: zoom and pan by mouse, touch and keys.

/** Colours of classes 1, 2, ...: those of segdistill's overlays, which colour-blind readers can distinguish. */
const COLOURS = [[255, 176, 0], [0, 200, 255], [255, 64, 160], [120, 220, 80]];

export function colourOf(number) {
  return COLOURS[(number - 1) % COLOURS.length];
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** An 8-bit picture on a canvas of its own, with brightness and contrast from -100 to 100. */
export function pictureCanvas({ height, width, channels, pixels }, brightness = 0, contrast = 0) {
  const factor = 2 ** (contrast / 40);
  const shown = Uint8ClampedArray.from({ length: 256 }, (_, level) => (level - 128) * factor + 128 + brightness * 1.28);
  const data = new Uint8ClampedArray(4 * height * width);
  for (let k = 0; k < height * width; k++) {
    for (let c = 0; c < 3; c++) data[4 * k + c] = shown[pixels[channels * k + (channels === 1 ? 0 : c)]];
    data[4 * k + 3] = 255;
  }
  return filled(data, height, width);
}

/** Stripes where two masks differ: black and white, so that they are told from any class and any image. */
function stripes(differing, height, width) {
  const data = new Uint8ClampedArray(4 * height * width);
  for (let k = 0; k < differing.length; k++) {
    if (!differing[k]) continue;
    const isLight = ((k % width) + Math.floor(k / width)) & 2;
    data.set(isLight ? [255, 255, 255, 230] : [0, 0, 0, 200], 4 * k);
  }
  return filled(data, height, width);
}

function filled(data, height, width) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return canvas;
}

/** The classes of a mask in their colours; those in `hidden` are left transparent. */
function maskCanvas(mask, height, width, hidden) {
  const data = new Uint8ClampedArray(4 * height * width);
  for (let k = 0; k < mask.length; k++) {
    if (!mask[k] || hidden.has(mask[k])) continue;
    data.set(colourOf(mask[k]), 4 * k);
    data[4 * k + 3] = 255;
  }
  return filled(data, height, width);
}

const MOST_LINES = 3000; // a path of more takes long to stroke: such a mask has its outline in whole pixels

/** The borders of a class along the edges of its pixels; null where they are too many lines. */
function borders(mask, height, width, number) {
  const path = new Path2D();
  let lines = 0;
  const is = (y, x) => y >= 0 && y < height && x >= 0 && x < width && mask[y * width + x] === number;
  for (let y = 0; y <= height && lines <= MOST_LINES; y++) {
    for (let x = 0; x < width; x++) {
      if (is(y, x) === is(y - 1, x)) continue;
      path.moveTo(x, y);
      while (x < width && is(y, x) !== is(y - 1, x)) x++;
      path.lineTo(x, y);
      lines += 1;
    }
  }
  for (let x = 0; x <= width && lines <= MOST_LINES; x++) {
    for (let y = 0; y < height; y++) {
      if (is(y, x) === is(y, x - 1)) continue;
      path.moveTo(x, y);
      while (y < height && is(y, x) !== is(y, x - 1)) y++;
      path.lineTo(x, y);
      lines += 1;
    }
  }
  return lines <= MOST_LINES ? path : null;
}

/** Pixels that touch another class, or the edge, by one of their sides. */
function rim(mask, height, width) {
  const found = new Uint8Array(mask.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const k = y * width + x;
      const isInner = y > 0 && x > 0 && y < height - 1 && x < width - 1 && mask[k - 1] === mask[k] &&
        mask[k + 1] === mask[k] && mask[k - width] === mask[k] && mask[k + width] === mask[k];
      if (!isInner) found[k] = mask[k];
    }
  }
  return found;
}

/** Draws on a canvas; `onMove` is given the pixel (x, y) below the pointer, or null. */
export class View {
  constructor(canvas, onMove) {
    this.canvas = canvas;
    this.onMove = onMove;
    this.image = null;
    this.layers = null;
    this.peers = []; // views that show the same place
    this.options = { mask: true, outline: true, axis: true, differing: true, opacity: 0.25, brightness: 0, contrast: 0, bare: false };
    this.scale = 1;
    this.left = this.top = 0;
    this.isFitted = true;
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  show(image) {
    const isOther = !this.image || image?.height !== this.image.height || image?.width !== this.image.width;
    this.image = image;
    this.layers = null;
    this.base = image && pictureCanvas(image, this.options.brightness, this.options.contrast);
    if (isOther) this.fit();
    this.draw();
  }

  /** Sets the mask (class numbers), hidden classes, the ends of the long axis or null, and where another mask differs. */
  setMask(mask, hidden, axis, differing = null) {
    const { height, width } = this.image;
    const numbers = [...new Set(mask)].filter((number) => number && !hidden.has(number));
    const outlines = numbers.map((number) => [css(colourOf(number)), borders(mask, height, width, number)]);
    const isBusy = outlines.some(([, path]) => !path);
    this.layers = {
      fill: maskCanvas(mask, height, width, hidden),
      outlines: isBusy ? [] : outlines,
      rim: isBusy ? maskCanvas(rim(mask, height, width), height, width, hidden) : null,
      axis,
      stripes: differing && stripes(differing, height, width),
    };
    this.draw();
  }

  set(options) {
    const { brightness, contrast } = this.options;
    Object.assign(this.options, options);
    const isLit = brightness === this.options.brightness && contrast === this.options.contrast;
    if (this.image && !isLit) this.base = pictureCanvas(this.image, this.options.brightness, this.options.contrast);
    this.draw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * this.ratio));
    if (this.isFitted) this.fit();
    this.paint();
  }

  fit() {
    this.isFitted = true;
    if (!this.image) return;
    const { width, height } = this.canvas;
    const margin = Math.min(36 * this.ratio, width / 10, height / 10);
    this.scale = Math.min((width - 2 * margin) / this.image.width, (height - 2 * margin) / this.image.height);
    this.left = (width - this.image.width * this.scale) / 2;
    this.top = (height - this.image.height * this.scale) / 2;
    this.draw();
  }

  /** Zooms by a factor around a point of the canvas, by default its middle. */
  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 0.05), 80);
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.share();
  }

  pan(x, y) {
    this.left += x;
    this.top += y;
    this.isFitted = false;
    this.share();
  }

  /** Draws this view and its peers at the same place. */
  share() {
    const { scale, left, top, isFitted } = this;
    for (const view of [this, ...this.peers]) {
      Object.assign(view, { scale, left, top, isFitted });
      view.draw();
    }
  }

  draw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    context.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
    this.paintImage(context, this.scale, this.ratio);
    this.onMove(null);
  }

  /** Image, mask, outline and axis; `scale` is that of the context, `ratio` the width of a thin line on it. */
  paintImage(context, scale, ratio) {
    const { mask, outline, axis, opacity, bare } = this.options;
    context.imageSmoothingEnabled = scale < 3 * ratio;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.base, 0, 0);
    if (!this.layers || bare) return;
    context.imageSmoothingEnabled = false;
    if (mask) {
      context.globalAlpha = opacity;
      context.drawImage(this.layers.fill, 0, 0);
      context.globalAlpha = 1;
    }
    if (this.options.differing && this.layers.stripes) context.drawImage(this.layers.stripes, 0, 0);
    context.lineCap = "square";
    if (outline) {
      if (this.layers.rim) context.drawImage(this.layers.rim, 0, 0);
      for (const [colour, path] of this.layers.outlines) {
        stroke(context, path, "rgb(0 0 0 / .55)", (3.6 * ratio) / scale);
        stroke(context, path, colour, (1.8 * ratio) / scale);
      }
    }
    if (axis && this.layers.axis) {
      const [from, to] = this.layers.axis;
      const line = new Path2D();
      line.moveTo(...from);
      line.lineTo(...to);
      stroke(context, line, "rgb(0 0 0 / .6)", (3 * ratio) / scale);
      context.setLineDash([(6 * ratio) / scale, (5 * ratio) / scale]);
      stroke(context, line, "#fff", (1.3 * ratio) / scale);
      context.setLineDash([]);
    }
  }

  /** What is shown as a picture of the image's own size, as a PNG blob. */
  async overlay() {
    const canvas = document.createElement("canvas");
    canvas.width = this.image.width;
    canvas.height = this.image.height;
    this.paintImage(canvas.getContext("2d"), 1, 0.6);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.image) this.zoom(2 ** (-event.deltaY / (event.ctrlKey ? 80 : 320)), ...this.place(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => [this, ...this.peers].forEach((view) => view.fit()));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("pointerleave", () => this.onMove(null));
  }

  moved(event) {
    const here = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!this.image) return;
    if (!before) {
      const [x, y] = [Math.floor((here[0] - this.left) / this.scale), Math.floor((here[1] - this.top) / this.scale)];
      const isInside = x >= 0 && y >= 0 && x < this.image.width && y < this.image.height;
      this.onMove(isInside ? [x, y] : null);
      return;
    }
    this.pointers.set(event.pointerId, here);
    if (this.pointers.size === 1) {
      this.pan(here[0] - before[0], here[1] - before[1]);
      return;
    }
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
    const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    this.zoom(distance(here) / distance(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
  }
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}
