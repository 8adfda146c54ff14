// Single-frame DICOM as a viewer shows it: rescaled, windowed, MONOCHROME1 inverted. Uncompressed, or JPEG baseline.
// Sources: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 and C.11.2 (rescale and window), PS3.5 (encoding).
import { checkBudget, joined, Unreadable } from "./bytes.js";
import { limitsOf, stretch } from "./levels.js";

const IMPLICIT = "1.2.840.10008.1.2";
const EXPLICIT = "1.2.840.10008.1.2.1";
const JPEG = "1.2.840.10008.1.2.4.50";
const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const UNDEFINED = 0xffffffff;
const PROJECTION = ["XA", "RF", "DX", "CR", "MG", "PX", "IO"];
const DAMAGED = "has a damaged DICOM header: restore the file";
const [ITEM, END_OF_ITEM, END_OF_SEQUENCE, PIXELS] = [0xfffee000, 0xfffee00d, 0xfffee0dd, 0x7fe00010];
const TAG = {
  modality: 0x00080060, regions: 0x00186011, detector: 0x00181164, toDetector: 0x00181110, toPatient: 0x00181111,
  magnification: 0x00181114, samples: 0x00280002, photometric: 0x00280004, planar: 0x00280006, frames: 0x00280008,
  rows: 0x00280010, columns: 0x00280011, spacing: 0x00280030, allocated: 0x00280100, stored: 0x00280101,
  signed: 0x00280103, centre: 0x00281050, width: 0x00281051, intercept: 0x00281052, slope: 0x00281053,
  shape: 0x00281056, modalityTable: 0x00283000, windowTable: 0x00283010,
};

/** Where the data set begins: behind the preamble and "DICM"; null where the file has none. */
export function isDicom(bytes) {
  return bytes.length > 136 && String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
}

/** A data set, read element by element. */
class DataSet {
  constructor(view, implicit) {
    this.view = view;
    this.implicit = implicit;
    this.found = new Map();
  }

  /** Reads elements from a place to an end, or to the end of an item; gives the place behind. */
  read(place, end, depth = 0) {
    if (depth > 16) throw new Unreadable(DAMAGED);
    while (place + 8 <= end) {
      const element = this.head(place);
      if (element.tag === END_OF_ITEM) return place + 8;
      if (depth === 0) this.found.set(element.tag, element);
      if (element.tag === PIXELS && depth === 0) return element.start;
      const isSequence = element.length === UNDEFINED || element.tag === TAG.regions;
      place = isSequence ? this.items(element, depth) : element.start + element.length;
      if (place > end) throw new Unreadable(DAMAGED);
    }
    return place;
  }

  head(place) {
    const tag = ((this.view.getUint16(place, true) << 16) | this.view.getUint16(place + 2, true)) >>> 0;
    if (this.implicit || tag >>> 16 === 0xfffe) {
      return { tag, kind: "", start: place + 8, length: this.view.getUint32(place + 4, true) };
    }
    const kind = String.fromCharCode(this.view.getUint8(place + 4), this.view.getUint8(place + 5));
    if (!/^[A-Z]{2}$/.test(kind)) throw new Unreadable(DAMAGED);
    if (!LONG.has(kind)) return { tag, kind, start: place + 8, length: this.view.getUint16(place + 6, true) };
    return { tag, kind, start: place + 12, length: this.view.getUint32(place + 8, true) };
  }

  /** Reads the items of a sequence into `element.items`; gives the place behind. */
  items(element, depth) {
    element.items = [];
    const end = element.length === UNDEFINED ? this.view.byteLength : element.start + element.length;
    let place = element.start;
    while (place + 8 <= end) {
      const item = this.head(place);
      if (item.tag === END_OF_SEQUENCE) return place + 8;
      if (item.tag !== ITEM) throw new Unreadable(DAMAGED);
      const inner = new DataSet(this.view, this.implicit);
      const stop = item.length === UNDEFINED ? end : item.start + item.length;
      const keeps = element.tag === TAG.regions && depth === 0;
      place = keeps ? inner.region(item.start, stop) : inner.read(item.start, stop, depth + 1);
      if (item.length !== UNDEFINED) place = stop;
      if (keeps) element.items.push(inner);
    }
    return place;
  }

  /** Elements of an ultrasound region, which holds no sequence. */
  region(place, end) {
    while (place + 8 <= end) {
      const element = this.head(place);
      if (element.tag === END_OF_ITEM) return place + 8;
      if (element.length === UNDEFINED) throw new Unreadable(DAMAGED);
      this.found.set(element.tag, element);
      place = element.start + element.length;
    }
    return place;
  }

  has(tag) {
    return (this.found.get(tag)?.length ?? 0) > 0;
  }

  text(tag) {
    const element = this.found.get(tag);
    if (!element || element.length > 4096) return "";
    const bytes = new Uint8Array(this.view.buffer, this.view.byteOffset + element.start, element.length);
    return String.fromCharCode(...bytes).replace(/[\0 ]+$/, "").trim();
  }

  /** Numbers in text, of the kinds DS and IS. */
  decimals(tag) {
    const text = this.text(tag);
    return text ? text.split("\\").map((part) => (part.trim() ? Number(part) : NaN)) : [];
  }

  decimal(tag) {
    const value = this.decimals(tag)[0];
    return Number.isFinite(value) ? value : null;
  }

  /** A binary number: US, UL or FD by its length. */
  number(tag) {
    const element = this.found.get(tag);
    if (!element) return null;
    if (element.length === 2) return this.view.getUint16(element.start, true);
    if (element.length === 4) return this.view.getUint32(element.start, true);
    return element.length === 8 ? this.view.getFloat64(element.start, true) : null;
  }
}

/** A DICOM file: {kind, height, width, channels, pixels, spacing}. `decodeJpeg` gives RGBA of a JPEG's bytes. */
export async function decodeDicom(bytes, intensity, decodeJpeg) {
  try {
    const { data, syntax } = parse(bytes);
    const header = checked(data);
    const values = await valuesOf(bytes, data, header, syntax, decodeJpeg);
    const shown = render(values, data, header, intensity);
    return { kind: "picture", height: header.rows, width: header.columns, ...shown, spacing: spacingOf(data, header) };
  } catch (error) {
    if (error instanceof RangeError) throw new Unreadable(DAMAGED);
    throw error;
  }
}

function parse(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const meta = new DataSet(view, false);
  let place = 132;
  while (place + 8 <= bytes.length && view.getUint16(place, true) === 2) {
    const element = meta.head(place);
    meta.found.set(element.tag, element);
    place = element.start + element.length;
  }
  const syntax = meta.text(0x00020010) || EXPLICIT;
  if (![IMPLICIT, EXPLICIT, JPEG].includes(syntax)) {
    throw new Unreadable("uses a DICOM transfer syntax that the page does not read: convert it to Explicit VR Little Endian");
  }
  const data = new DataSet(view, syntax === IMPLICIT);
  data.read(place, bytes.length);
  return { data, syntax };
}

function checked(data) {
  const header = { photometric: data.text(TAG.photometric), frames: data.decimal(TAG.frames) ?? 1 };
  for (const name of ["rows", "columns", "samples", "allocated", "stored", "planar", "signed"]) {
    header[name] = data.number(TAG[name]) ?? 0;
  }
  header.stored ||= header.allocated;
  if (!header.rows || !header.columns || !data.found.has(PIXELS)) throw new Unreadable("is a DICOM file without a picture");
  if (header.frames !== 1) throw new Unreadable(`holds ${header.frames} frames: only single-frame DICOM is read`);
  checkBudget(header.rows, header.columns);
  const isGrey = /^MONOCHROME[12]$/.test(header.photometric);
  if (!isGrey && !["RGB", "YBR_FULL", "YBR_FULL_422"].includes(header.photometric)) {
    throw new Unreadable("has DICOM pixels that are neither grey, RGB nor YBR: save it as PNG");
  }
  if (header.samples !== (isGrey ? 1 : 3) || ![8, 16, 32].includes(header.allocated)) {
    throw new Unreadable(`has ${header.samples} samples of ${header.allocated} bits per pixel, which is not read`);
  }
  if (data.found.has(TAG.modalityTable)) throw new Unreadable("has a lookup table of its own values: save it as PNG");
  return header;
}

/** Stored values: of grey (rows x columns), of colour RGB with the samples side by side. */
async function valuesOf(bytes, data, header, syntax, decodeJpeg) {
  const element = data.found.get(PIXELS);
  if (syntax === JPEG) return fromJpeg(await decodeJpeg(fragments(bytes, data, element)), header);
  if (element.length === UNDEFINED) throw new Unreadable("has compressed pixels without a transfer syntax that says so");
  if (header.photometric === "YBR_FULL_422") throw new Unreadable("has subsampled colours that are not compressed: save it as PNG");
  const count = header.rows * header.columns * header.samples;
  const size = header.allocated / 8;
  if (bytes.length < element.start + count * size) throw new Unreadable("is cut off: restore the file");
  const part = bytes.slice(element.start, element.start + count * size);
  const kinds = header.signed ? [Int8Array, Int16Array, Int32Array] : [Uint8Array, Uint16Array, Uint32Array];
  const values = new kinds[Math.log2(size)](part.buffer);
  if (header.allocated > header.stored && header.allocated === 8 * size) dropUnused(values, header);
  if (header.samples === 1) return values;
  const side = header.planar === 1 ? sideBySide(values) : values;
  return header.photometric === "YBR_FULL" ? fromYbr(side) : side;
}

/** Bits above those that are stored may hold anything. */
function dropUnused(values, { allocated, stored, signed }) {
  const unused = 32 - stored;
  for (let k = 0; k < values.length && allocated > stored; k++) {
    values[k] = signed ? (values[k] << unused) >> unused : (values[k] << unused) >>> unused;
  }
}

function sideBySide(planes) {
  const count = planes.length / 3;
  return planes.map((_, k) => planes[(k % 3) * count + Math.floor(k / 3)]);
}

/** In single precision, each row times the matrix of PS3.3 C.7.6.3.1.2. */
function fromYbr(ybr) {
  const rgb = new Uint8Array(ybr.length);
  const [greenBlue, greenRed] = [Math.fround((-0.114 * 1.772) / 0.587), Math.fround((-0.299 * 1.402) / 0.587)];
  const [red, blue] = [Math.fround(1.402), Math.fround(1.772)];
  const level = (value) => Math.min(255, Math.max(0, Math.floor(Math.fround(value + 0.5))));
  for (let k = 0; k < ybr.length; k += 3) {
    const [y, b, r] = [ybr[k], ybr[k + 1] - 128, ybr[k + 2] - 128];
    rgb[k] = level(Math.fround(y + red * r));
    rgb[k + 1] = level(Math.fround(y + greenBlue * b + greenRed * r));
    rgb[k + 2] = level(Math.fround(y + blue * b));
  }
  return rgb;
}

/** The fragments of a frame as one stream; the first item is the table of offsets. */
function fragments(bytes, data, element) {
  const parts = [];
  let place = element.start;
  while (place + 8 <= bytes.length) {
    const { tag, start, length } = data.head(place);
    if (tag !== ITEM) break;
    parts.push(bytes.subarray(start, start + length));
    place = start + length;
  }
  return joined(parts.slice(1));
}

function fromJpeg({ height, width, rgba }, { rows, columns, samples }) {
  if (height !== rows || width !== columns) {
    throw new Unreadable(`claims ${rows} x ${columns} pixels, but its stream holds ${height} x ${width}`);
  }
  const values = new Uint8Array(rows * columns * samples);
  for (let k = 0; k < values.length; k++) values[k] = rgba[Math.floor(k / samples) * 4 + (k % samples)];
  return values;
}

function render(values, data, header, intensity) {
  const isBytes = values instanceof Uint8Array;
  if (header.samples === 3) {
    return { channels: 3, pixels: isBytes ? values : stretch(values, 0, 2 ** header.stored - 1) };
  }
  const pixels = windowed(values, data, isBytes && header.stored === 8, intensity);
  if (header.photometric === "MONOCHROME1") for (let k = 0; k < pixels.length; k++) pixels[k] = 255 - pixels[k];
  return { channels: 1, pixels };
}

function windowed(stored, data, isPlain, intensity) {
  const [slope, intercept] = [data.decimal(TAG.slope), data.decimal(TAG.intercept)];
  const isScaled = slope !== null && intercept !== null;
  const values = isScaled ? Float64Array.from(stored, (value) => value * slope + intercept) : stored;
  const [centre, width] = [data.decimal(TAG.centre), data.decimal(TAG.width)];
  const shape = data.text(TAG.shape).toUpperCase() || "LINEAR";
  if (centre === null || width === null || width <= 0 || (width <= 1 && shape === "LINEAR")) {
    if (data.found.has(TAG.windowTable)) throw new Unreadable("is shown by a lookup table, which is not read: save it as PNG");
    if (isPlain && (slope || 1) === 1 && (intercept || 0) === 0) return Uint8Array.from(values);
    return stretch(values, ...limitsOf(values, intensity));
  }
  if (shape === "SIGMOID") {
    const curve = (value) => 1 / (1 + Math.exp(Math.min(700, Math.max(-700, (-4 * (value - centre)) / width))));
    return stretch(Float64Array.from(values, curve), 0, 1);
  }
  if (shape === "LINEAR_EXACT") return stretch(values, centre - width / 2, centre + width / 2);
  const low = centre - 0.5 - (width - 1) / 2;
  return stretch(values, low, low + width - 1);
}

/** Size of a pixel in mm, and where it comes from; null where the file does not state one that holds. */
function spacingOf(data, header) {
  if (data.found.has(TAG.regions)) return ultrasound(data.found.get(TAG.regions).items ?? [], header);
  const pair = (tag) => {
    const found = data.decimals(tag);
    return found.length === 2 && found.every((value) => value > 0) ? found : null;
  };
  const [atDetector, calibrated] = [pair(TAG.detector), pair(TAG.spacing)];
  const isSame = calibrated && atDetector && calibrated.every((value, k) => value === atDetector[k]);
  if (calibrated && !(PROJECTION.includes(data.text(TAG.modality)) && isSame)) {
    return { row: calibrated[0], column: calibrated[1], source: "PixelSpacing", region: null };
  }
  const [far, near] = [data.decimal(TAG.toDetector), data.decimal(TAG.toPatient)];
  const factor = data.decimal(TAG.magnification) || (far && near ? far / near : null);
  if (!atDetector || !factor) return null;
  const source = "ImagerPixelSpacing / magnification (estimated)";
  return { row: atDetector[0] / factor, column: atDetector[1] / factor, source, region: null };
}

/** The largest 2-D tissue region whose axes are both in cm. */
function ultrasound(regions, { rows, columns }) {
  let best = null;
  for (const region of regions) {
    const [format, kind, acrossUnit, downUnit] = [0x00186012, 0x00186014, 0x00186024, 0x00186026].map((tag) => region.number(tag));
    if (format !== 1 || kind !== 1 || acrossUnit !== 3 || downUnit !== 3) continue;
    const [left, top, right, bottom] = [0x00186018, 0x0018601a, 0x0018601c, 0x0018601e].map((tag) => region.number(tag) ?? -1);
    const place = [top, left, Math.min(bottom + 1, rows), Math.min(right + 1, columns)];
    if (!(place[0] < place[2] && place[1] < place[3])) continue;
    const [column, row] = [0x0018602c, 0x0018602e].map((tag) => 10 * Math.abs(region.number(tag) ?? 0));
    if (!(row > 0 && column > 0)) continue;
    const extent = (place[2] - place[0]) * (place[3] - place[1]);
    if (!best || extent > best.extent) best = { row, column, source: "ultrasound region", region: place, extent };
  }
  return best;
}
