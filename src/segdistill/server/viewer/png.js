// A decoder of PNG of its own: a canvas drops bits, premultiplies alpha and manages colour.
// Source: W3C Portable Network Graphics (PNG) Specification, third edition.
import { checkBudget, crc32, deflate, inflate, joined, Unreadable } from "./bytes.js";
import { sixteenToEight } from "./levels.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const DEPTHS_OF = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const PASSES = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
]; // of Adam7: first column, first row, steps

/** Whether these bytes begin a PNG file. */
export function isPng(bytes) {
  return SIGNATURE.every((byte, k) => bytes[k] === byte);
}

/** Pixels of a PNG file: {height, width, channels: 1 or 3, pixels: uint8}, upright, as Python's runtime reads them. */
export async function decodePng(bytes, intensity = null) {
  const file = chunksOf(bytes);
  const { height, width, depth, colour } = file;
  const stored = await samplesOf(file);
  const count = height * width;
  if (colour === 0 && depth === 16) return turn(grey(file, sixteenToEight(stored, intensity)), file.orientation);
  if (colour === 0) {
    const factor = 255 / (2 ** depth - 1); // whole for 1, 2, 4 and 8 bits
    for (let k = 0; factor > 1 && k < count; k++) stored[k] *= factor;
    return turn(grey(file, stored), file.orientation);
  }
  const bytesOf = depth === 16 ? highBytes(stored) : stored;
  return turn({ height, width, ...coloured(file, bytesOf, count) }, file.orientation);
}

function grey({ height, width }, pixels) {
  return { height, width, channels: 1, pixels };
}

function highBytes(samples) {
  return Uint8Array.from(samples, (sample) => sample >> 8);
}

/** RGB of a picture in colour, with a palette, or with an alpha channel. */
function coloured({ colour, palette, transparency }, samples, count) {
  if (colour === 2) return { channels: 3, pixels: samples };
  const rgba = new Uint8Array(count * 4);
  for (let k = 0; k < count; k++) {
    if (colour === 6) {
      rgba.set(samples.subarray(4 * k, 4 * k + 4), 4 * k);
    } else if (colour === 4) {
      rgba.fill(samples[2 * k], 4 * k, 4 * k + 3);
      rgba[4 * k + 3] = samples[2 * k + 1];
    } else {
      const index = samples[k];
      for (let c = 0; c < 3; c++) rgba[4 * k + c] = palette[3 * index + c] ?? 0;
      rgba[4 * k + 3] = transparency?.[index] ?? 255;
    }
  }
  return flatten(rgba, count);
}

/** RGBA to RGB: over black where alpha varies; alpha itself when it carries the whole drawing. */
function flatten(rgba, count) {
  let alphaVaries = false;
  let colourVaries = false;
  for (let k = 0; k < 4 * count; k += 4) {
    alphaVaries ||= rgba[k + 3] !== rgba[3];
    colourVaries ||= rgba[k] !== rgba[0] || rgba[k + 1] !== rgba[1] || rgba[k + 2] !== rgba[2];
  }
  if (alphaVaries && !colourVaries) {
    return { channels: 1, pixels: Uint8Array.from({ length: count }, (_, k) => rgba[4 * k + 3]) };
  }
  const pixels = new Uint8Array(3 * count);
  for (let k = 0; k < count; k++) {
    const alpha = rgba[4 * k + 3];
    for (let c = 0; c < 3; c++) {
      const value = rgba[4 * k + c];
      pixels[3 * k + c] = alphaVaries ? Math.trunc((value * alpha + 127) / 255) : value;
    }
  }
  return { channels: 3, pixels };
}

/** Header, palette and compressed data of a file whose checksums all hold. */
function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const file = { data: [], palette: [], transparency: null, orientation: 1 };
  let place = 8;
  let name = "";
  while (name !== "IEND") {
    if (place + 12 > bytes.length) throw new Unreadable("is cut off: restore the file");
    const length = view.getUint32(place);
    if (place + 12 + length > bytes.length) throw new Unreadable("is cut off: restore the file");
    name = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const content = bytes.subarray(place + 8, place + 8 + length);
    if (crc32(bytes.subarray(place + 4, place + 8 + length)) !== view.getUint32(place + 8 + length)) {
      throw new Unreadable("holds damaged data, a checksum is wrong: restore the file");
    }
    readChunk(file, name, content);
    place += 12 + length;
  }
  if (!file.width) throw new Unreadable("has a damaged PNG header: restore the file");
  return file;
}

function readChunk(file, name, content) {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  if (name === "IHDR") Object.assign(file, headerOf(view));
  else if (name === "PLTE") file.palette = content;
  else if (name === "tRNS") file.transparency = content;
  else if (name === "IDAT") file.data.push(content);
  else if (name === "eXIf") file.orientation = orientationOf(view);
  else if (name === "acTL" && view.getUint32(0) > 1) {
    throw new Unreadable(`holds ${view.getUint32(0)} frames: save each one as a file of its own`);
  }
}

function headerOf(view) {
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, colour, interlaced] = [view.getUint8(8), view.getUint8(9), view.getUint8(12)];
  checkBudget(height, width);
  if (!DEPTHS_OF[colour]?.includes(depth)) throw new Unreadable("has a damaged PNG header: restore the file");
  return { width, height, depth, colour, interlaced };
}

/** The orientation (1 to 8) in a block of EXIF. */
function orientationOf(view) {
  try {
    const little = view.getUint16(0) === 0x4949;
    const start = view.getUint32(4, little);
    for (let k = 0; k < view.getUint16(start, little); k++) {
      const entry = start + 2 + 12 * k;
      if (view.getUint16(entry, little) === 0x0112) return view.getUint16(entry + 8, little);
    }
  } catch {
    // a damaged block changes nothing of the pixels
  }
  return 1;
}

/** Samples in raster order, one number each. */
async function samplesOf(file) {
  const { height, width, depth, colour, interlaced } = file;
  const samples = SAMPLES[colour];
  const passes = interlaced ? PASSES : [[0, 0, 1, 1]];
  const parts = passes.map(([left, top, across, down]) => {
    const columns = Math.max(0, Math.ceil((width - left) / across));
    const rows = columns ? Math.max(0, Math.ceil((height - top) / down)) : 0;
    return { left, top, across, down, columns, rows, stride: Math.ceil((columns * samples * depth) / 8) };
  });
  const size = parts.reduce((sum, { rows, stride }) => sum + rows * (stride + 1), 0);
  const raw = await inflate(joined(file.data), "deflate", size + 65536);
  if (raw.length < size) throw new Unreadable("is cut off: restore the file");
  const out = depth === 16 ? new Uint16Array(height * width * samples) : new Uint8Array(height * width * samples);
  let place = 0;
  for (const part of parts) {
    unfilter(raw, place, part, Math.max(1, (samples * depth) >> 3));
    unpack(raw, place, part, out, width, samples, depth);
    place += part.rows * (part.stride + 1);
  }
  return out;
}

/** Undoes the filters of a pass, in place. */
function unfilter(raw, start, { rows, stride }, step) {
  for (let row = 0; row < rows; row++) {
    const here = start + row * (stride + 1) + 1;
    const above = here - stride - 1;
    const kind = raw[here - 1];
    if (kind > 4) throw new Unreadable("holds damaged data, an unknown filter: restore the file");
    for (let k = 0; kind && k < stride; k++) {
      const left = k >= step ? raw[here + k - step] : 0;
      const up = row ? raw[above + k] : 0;
      const corner = row && k >= step ? raw[above + k - step] : 0;
      raw[here + k] += [0, left, up, (left + up) >> 1, kind === 4 ? paeth(left, up, corner) : 0][kind];
    }
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

function unpack(raw, start, { left, top, across, down, columns, rows, stride }, out, width, samples, depth) {
  for (let row = 0; row < rows; row++) {
    const here = start + row * (stride + 1) + 1;
    for (let k = 0; k < columns * samples; k++) {
      const column = left + Math.floor(k / samples) * across;
      const target = ((top + row * down) * width + column) * samples + (k % samples);
      if (depth === 8) out[target] = raw[here + k];
      else if (depth === 16) out[target] = (raw[here + 2 * k] << 8) | raw[here + 2 * k + 1];
      else {
        const bit = k * depth;
        out[target] = (raw[here + (bit >> 3)] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
      }
    }
  }
}

/** A picture turned as its orientation (1 to 8) asks for. */
function turn(picture, orientation) {
  if (!(orientation > 1 && orientation < 9)) return picture;
  const { height, width, channels, pixels } = picture;
  const swap = orientation > 4;
  const [tall, wide] = swap ? [width, height] : [height, width];
  const flipRow = [3, 4, 7, 8].includes(orientation); // of the stored rows
  const flipColumn = [2, 3, 6, 7].includes(orientation);
  const turned = new Uint8Array(pixels.length);
  for (let y = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++) {
      const [row, column] = swap ? storedOf(x, y, orientation, height, width) : [
        flipRow ? height - 1 - y : y, flipColumn ? width - 1 - x : x,
      ];
      for (let c = 0; c < channels; c++) {
        turned[(y * wide + x) * channels + c] = pixels[(row * width + column) * channels + c];
      }
    }
  }
  return { height: tall, width: wide, channels, pixels: turned };
}

/** The stored row and column of a pixel (x, y) of a picture whose sides are swapped. */
function storedOf(x, y, orientation, height, width) {
  const row = orientation === 6 || orientation === 7 ? height - 1 - x : x;
  const column = orientation === 7 || orientation === 8 ? width - 1 - y : y;
  return [row, column];
}

/** A PNG file of 8-bit grey levels (height, width). */
export async function encodePng(levels, height, width) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(levels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;
  const parts = [Uint8Array.from(SIGNATURE)];
  for (const [name, content] of [["IHDR", header], ["IDAT", await deflate(rows, "deflate")], ["IEND", new Uint8Array(0)]]) {
    const chunk = new Uint8Array(12 + content.length);
    const framing = new DataView(chunk.buffer);
    framing.setUint32(0, content.length);
    for (let k = 0; k < 4; k++) chunk[4 + k] = name.charCodeAt(k);
    chunk.set(content, 8);
    framing.setUint32(8 + content.length, crc32(chunk.subarray(4, 8 + content.length)));
    parts.push(chunk);
  }
  return joined(parts);
}
