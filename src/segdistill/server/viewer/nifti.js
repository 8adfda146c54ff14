// NIfTI volumes, .nii and .nii.gz, turned as DICOM shows them, and masks on the volume's own grid.
// Source: the headers of NIfTI-1 and NIfTI-2.
import { deflate, inflate, joined, MAX_VOXELS, Unreadable } from "./bytes.js";
import { limitsOf, stretch } from "./levels.js";

const TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array,
  256: Int8Array, 512: Uint16Array, 768: Uint32Array, 1024: BigInt64Array, 1280: BigUint64Array,
};
const MILLIMETRES = { 0: 1, 1: 1000, 2: 1, 3: 0.001 };
const DAMAGED = "has a damaged NIfTI header: restore the file";

/** The size that a NIfTI header states of itself, with its byte order; null where it is none. */
function kindOf(bytes) {
  if (bytes.length < 348) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (const little of [true, false]) {
    const size = view.getInt32(0, little);
    if (size === 348 || size === 540) return { size, little };
  }
  return null;
}

/** Whether these bytes begin a NIfTI file that is not compressed. */
export function isNifti(bytes) {
  return kindOf(bytes) !== null;
}

/** A volume: its size, its slices as 8 bits, and how a mask of it is written. */
export async function decodeNifti(bytes, intensity) {
  const packed = bytes[0] === 0x1f && bytes[1] === 0x8b;
  const head = packed ? await firstBytes(bytes) : bytes;
  const header = headerOf(head);
  const Kind = TYPES[header.type];
  const [columns, rows, slices] = header.shape;
  const size = columns * rows * slices * Kind.BYTES_PER_ELEMENT;
  const content = packed ? await inflate(bytes, "gzip", header.offset + size + 2 ** 24) : bytes;
  if (content.length < header.offset + size) throw new Unreadable("is cut off: restore the file");
  const voxels = scaled(numbers(content, header, Kind), header);
  return volumeOf(voxels, header, intensity);
}

/** The beginning of a gzip stream. */
async function firstBytes(bytes) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const parts = [];
  try {
    for (let count = 0; count < 540; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      count += value.length;
    }
  } catch {
    throw new Unreadable("holds damaged compressed data: restore the file");
  }
  reader.cancel().catch(() => {});
  return joined(parts);
}

function headerOf(bytes) {
  const kind = kindOf(bytes);
  if (!kind || bytes.length < kind.size) throw new Unreadable("is no NIfTI file, or a damaged one");
  const header = kind.size === 348 ? fieldsOfOne(bytes, kind.little) : fieldsOfTwo(bytes, kind.little);
  if (header.magic === "ni") throw new Unreadable("is half of a .hdr/.img pair: save it as one .nii file");
  if (header.magic !== "n+") throw new Unreadable(DAMAGED);
  while (header.shape.length > 3 && header.shape.at(-1) === 1) header.shape.pop();
  if (header.shape.length !== 3) {
    throw new Unreadable(`has ${header.shape.length} dimensions: only volumes of three are read`);
  }
  const voxels = header.shape[0] * header.shape[1] * header.shape[2];
  if (!header.shape.every((side) => side > 0)) throw new Unreadable(DAMAGED);
  if (voxels > MAX_VOXELS) throw new Unreadable(`claims ${voxels} voxels, more than the ${MAX_VOXELS} that are read here`);
  if (!TYPES[header.type]) throw new Unreadable("holds voxels that are no real numbers: save it as whole or real numbers");
  header.offset = Math.max(Math.trunc(header.offset), kind.size);
  return { ...header, little: kind.little };
}

const list = (count, read) => Array.from({ length: count }, (_, k) => read(k));

function fieldsOfOne(bytes, little) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const short = (at) => view.getInt16(at, little);
  const real = (at) => view.getFloat32(at, little);
  return {
    magic: String.fromCharCode(bytes[344], bytes[345]),
    shape: list(Math.min(Math.max(short(40), 0), 7), (k) => short(42 + 2 * k)),
    type: short(70),
    steps: list(8, (k) => real(76 + 4 * k)),
    offset: real(108),
    slope: real(112),
    intercept: real(116),
    units: bytes[123],
    qform: short(252),
    sform: short(254),
    quaternion: list(3, (k) => real(256 + 4 * k)),
    shift: list(3, (k) => real(268 + 4 * k)),
    rows: list(12, (k) => real(280 + 4 * k)),
  };
}

function fieldsOfTwo(bytes, little) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = (at) => Number(view.getBigInt64(at, little));
  const real = (at) => view.getFloat64(at, little);
  return {
    magic: String.fromCharCode(bytes[4], bytes[5]),
    shape: list(Math.min(Math.max(long(16), 0), 7), (k) => long(24 + 8 * k)),
    type: view.getInt16(12, little),
    steps: list(8, (k) => real(104 + 8 * k)),
    offset: long(168),
    slope: real(176),
    intercept: real(184),
    qform: view.getInt32(344, little),
    sform: view.getInt32(348, little),
    quaternion: list(3, (k) => real(352 + 8 * k)),
    shift: list(3, (k) => real(376 + 8 * k)),
    rows: list(12, (k) => real(400 + 8 * k)),
    units: view.getInt32(500, little),
  };
}

function numbers(content, { shape, offset, little }, Kind) {
  const count = shape[0] * shape[1] * shape[2];
  const part = content.slice(offset, offset + count * Kind.BYTES_PER_ELEMENT);
  if (!little) {
    const size = Kind.BYTES_PER_ELEMENT;
    for (let k = 0; size > 1 && k < part.length; k += size) part.subarray(k, k + size).reverse();
  }
  const values = new Kind(part.buffer);
  return values instanceof BigInt64Array || values instanceof BigUint64Array ? Float64Array.from(values, Number) : values;
}

/** Slope and intercept, in single precision, where the header has them. */
function scaled(values, { slope, intercept }) {
  const isNone = !Number.isFinite(slope) || slope === 0;
  if (isNone || (slope === 1 && intercept === 0)) return values;
  const [factor, summand] = [Math.fround(slope), Math.fround(intercept)];
  return Float32Array.from(values, (value) => Math.fround(Math.fround(value) * factor) + summand);
}

/** Columns of the affine from (column, row, slice) to NIfTI's space, in mm. */
function affineOf({ qform, sform, quaternion, steps, shape, rows, units }) {
  const scale = MILLIMETRES[units & 7] ?? 1;
  if (sform > 0) return [0, 1, 2].map((k) => [rows[k], rows[4 + k], rows[8 + k]].map((value) => value * scale));
  if (qform > 0) {
    const [b, c, d] = quaternion;
    const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
    const turned = [
      [a * a + b * b - c * c - d * d, 2 * (b * c + a * d), 2 * (b * d - a * c)],
      [2 * (b * c - a * d), a * a + c * c - b * b - d * d, 2 * (c * d + a * b)],
      [2 * (b * d + a * c), 2 * (c * d - a * b), a * a + d * d - b * b - c * c],
    ];
    const sign = steps[0] < 0 ? -1 : 1;
    return turned.map((column, k) => column.map((value) => value * steps[k + 1] * (k === 2 ? sign : 1) * scale));
  }
  return [0, 1, 2].map((k) => [0, 1, 2].map((n) => (n === k ? steps[k + 1] * (k === 0 ? -1 : 1) * scale : 0)));
}

/** How the stored voxels are turned to what radiologists look at: {swap, flips} of (slices, rows, columns). */
function turnOf(affine) {
  const axes = [affine[2], affine[1], affine[0]].map(([x, y, z]) => [-x, -y, z]);
  const main = axes.map((axis) => {
    const sizes = axis.map(Math.abs);
    return sizes.indexOf(Math.max(...sizes));
  });
  if (main[0] !== 2 || new Set(main).size !== 3) return { swap: false, flips: [false, false, false] };
  const swap = main[1] === 0;
  const order = swap ? [0, 2, 1] : [0, 1, 2];
  return { swap, flips: order.map((row, k) => axes[row][2 - k] < 0) };
}

/** (slice, row, column) in mm as stored; null where the header does not tell. */
function spacingOf(affine, units) {
  const [columns, rows, slices] = affine.map((column) => Math.hypot(...column));
  const [a, b, c] = affine.map((column, k) => column.map((value) => value / [columns, rows, slices][k]));
  const height = Math.abs(
    a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0]),
  );
  const rounded = [height > 1 - 1e-5 ? slices : slices * height, rows, columns].map((step) =>
    Number(step.toFixed(step > 0.01 ? 6 : 10)),
  );
  if (!rounded.every((step) => step > 0 && Number.isFinite(step))) throw new Unreadable(DAMAGED);
  return units & 7 || !rounded.every((step) => step === 1) ? rounded : null;
}

function volumeOf(voxels, header, intensity) {
  const [columns, rows, slices] = header.shape;
  const affine = affineOf(header);
  const { swap, flips } = turnOf(affine);
  const spacing = spacingOf(affine, header.units);
  const [height, width] = swap ? [columns, rows] : [rows, columns];
  const limits = limitsOf(voxels, intensity);
  /** The stored place of a pixel of the turned volume. */
  const place = (slice, y, x) => {
    const [k, a, b] = [flips[0] ? slices - 1 - slice : slice, flips[1] ? height - 1 - y : y, flips[2] ? width - 1 - x : x];
    const [row, column] = swap ? [b, a] : [a, b];
    return (k * rows + row) * columns + column;
  };
  const voxel = spacing && (swap ? [spacing[0], spacing[2], spacing[1]] : spacing);
  return {
    kind: "volume", height, width, slices,
    spacing: voxel && { row: voxel[1], column: voxel[2], source: "header", region: null },
    voxel,
    slice(k) {
      const values = new Float64Array(height * width);
      for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) values[y * width + x] = voxels[place(k, y, x)];
      return { height, width, channels: 1, pixels: stretch(values, ...limits) };
    },
    /** The file (.nii.gz) of masks by slice of the turned volume. */
    async save(masks) {
      const stored = new Uint8Array(columns * rows * slices);
      masks.forEach((mask, k) => {
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) stored[place(k, y, x)] = mask[y * width + x];
      });
      return deflate(joined([writtenHeader(header), stored]), "gzip");
    },
  };
}

/** The header of a mask on the grid of a volume: NIfTI-1, 352 bytes. */
function writtenHeader({ shape, steps, units, qform, sform, quaternion, shift, rows }) {
  const bytes = new Uint8Array(352);
  const view = new DataView(bytes.buffer);
  const short = (at, value) => view.setInt16(at, value, true);
  const real = (at, value) => view.setFloat32(at, value, true);
  view.setInt32(0, 348, true);
  bytes[38] = 114; // "r"
  [3, ...shape, 1, 1, 1, 1].forEach((side, k) => short(40 + 2 * k, side));
  short(70, 2);
  short(72, 8);
  [...steps.slice(0, 4), 1, 1, 1, 1].forEach((step, k) => real(76 + 4 * k, step));
  real(108, 352);
  real(112, 1);
  bytes[123] = units;
  short(252, qform);
  short(254, sform);
  [...quaternion, ...shift, ...rows].forEach((value, k) => real(256 + 4 * k, value));
  bytes.set([110, 43, 49, 0], 344); // "n+1"
  return bytes;
}
