// From pixels to the network's input and from its probabilities to the picture's size: as segdistill.imaging does it.
import { Unreadable } from "./bytes.js";
import { resizePlane } from "./resize.js";

/**
 * Colour and size: planes (1 or 3) of uint8 at the network's size.
 *
 * `settings` is the model's preprocessing, and `tall_first` the order in which Pillow resizes.
 */
function planesOf({ height, width, channels, pixels }, settings) {
  const count = height * width;
  let planes;
  if (settings.colour === "grey") planes = [channels === 1 ? pixels : luma(pixels, count)];
  else planes = [0, 1, 2].map((c) => (channels === 1 ? pixels : every(pixels, count, c)));
  const [toHeight, toWidth] = settings.size;
  return planes.map((plane) => resizePlane(plane, height, width, toHeight, toWidth, settings.tall_first));
}

/** ITU-R BT.601, in the fixed point of Pillow's "L". */
function luma(rgb, count) {
  const out = new Uint8Array(count);
  for (let k = 0; k < count; k++) {
    out[k] = (rgb[3 * k] * 19595 + rgb[3 * k + 1] * 38470 + rgb[3 * k + 2] * 7471 + 0x8000) >> 16;
  }
  return out;
}

function every(rgb, count, channel) {
  const out = new Uint8Array(count);
  for (let k = 0; k < count; k++) out[k] = rgb[3 * k + channel];
  return out;
}

/** What the network is given for one picture: a list of float32 (channels, height, width), one per patch. */
export function inputsOf(picture, settings) {
  const parts = settings.patches ? cut(picture, settings.patches) : [picture];
  return parts.map((part) => {
    const planes = planesOf(part, settings);
    const size = planes[0].length;
    const out = new Float32Array(settings.channels * size);
    for (let c = 0; c < settings.channels; c++) {
      const plane = planes[planes.length === 1 ? 0 : c];
      const mean = Math.fround(settings.mean[settings.mean.length === 1 ? 0 : c]);
      const std = Math.fround(settings.std[settings.std.length === 1 ? 0 : c]);
      for (let k = 0; k < size; k++) {
        out[c * size + k] = Math.fround(Math.fround(plane[k] / 255) - mean) / std;
      }
    }
    return out;
  });
}

/** Where patches begin along a side. */
function offsets(length, { count, size }) {
  if (length < size) throw new Unreadable(`has a side of ${length} pixels, shorter than the network's patches of ${size}`);
  if (count * size < length) {
    throw new Unreadable(`has a side of ${length} pixels, more than ${count} patches of ${size} cover`);
  }
  const step = count === 1 ? 0 : (length - size) / (count - 1);
  return Array.from({ length: count }, (_, k) => halfToEven(k * step));
}

/** The nearest whole number; of two equally near ones the even one. */
export function halfToEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

function placesOf(height, width, grid) {
  const columns = offsets(width, grid);
  return offsets(height, grid).flatMap((top) => columns.map((left) => [top, left]));
}

function cut({ height, width, channels, pixels }, grid) {
  return placesOf(height, width, grid).map(([top, left]) => {
    const part = new Uint8Array(grid.size * grid.size * channels);
    for (let y = 0; y < grid.size; y++) {
      const start = ((top + y) * width + left) * channels;
      part.set(pixels.subarray(start, start + grid.size * channels), y * grid.size * channels);
    }
    return { height: grid.size, width: grid.size, channels, pixels: part };
  });
}

/** Outputs of all inputs as one: {planes: list of float32, height, width}; patches are averaged where they overlap. */
export function joinOutputs(outputs, classes, settings, height, width) {
  const [inHeight, inWidth] = settings.size;
  const size = inHeight * inWidth;
  if (!settings.patches) {
    const planes = Array.from({ length: classes }, (_, c) => outputs[0].subarray(c * size, (c + 1) * size));
    return { planes, height: inHeight, width: inWidth };
  }
  const times = new Float32Array(height * width);
  const planes = Array.from({ length: classes }, () => new Float32Array(height * width));
  placesOf(height, width, settings.patches).forEach(([top, left], n) => {
    for (let y = 0; y < inHeight; y++) {
      for (let x = 0; x < inWidth; x++) {
        const place = (top + y) * width + left + x;
        times[place] += 1;
        for (let c = 0; c < classes; c++) planes[c][place] += outputs[n][c * size + y * inWidth + x];
      }
    }
  });
  for (const plane of planes) for (let k = 0; k < plane.length; k++) plane[k] /= times[k];
  return { planes, height, width };
}

/** The probability that a pixel is not background, and, of three or more planes, the most probable class. */
export function resultOf({ planes, height, width }, toHeight, toWidth, settings) {
  const resized = (plane) => resizePlane(plane, height, width, toHeight, toWidth, settings.tall_first);
  if (planes.length <= 2) return { foreground: resized(planes.at(-1)), labels: null };
  const foreground = resized(planes[0].map((value) => 1 - value));
  const labels = new Uint8Array(toHeight * toWidth);
  const best = resized(planes[0]).slice();
  planes.slice(1).forEach((plane, c) => {
    const found = resized(plane);
    for (let k = 0; k < best.length; k++) {
      if (found[k] > best[k]) {
        best[k] = found[k];
        labels[k] = c + 1;
      }
    }
  });
  return { foreground, labels };
}

/** Probabilities within [0, 1]; rounding may leave it by 0.0001, what is further out is no result. */
export function checkProbability(values) {
  for (let k = 0; k < values.length; k++) {
    const value = values[k];
    if (value >= 0 && value <= 1) continue;
    if (!(value >= -1e-4 && value <= 1 + 1e-4)) {
      throw new Unreadable("makes the network overflow: its output is no probability");
    }
    values[k] = Math.min(1, Math.max(0, value));
  }
  return values;
}
