// From a volume to what a network of volumes sees, and back: as segdistill.imaging.grid does it.
import { Unreadable } from "./bytes.js";
import { halfToEven } from "./prepare.js";
import { resizePlane } from "./resize.js";

const MOST = 2 ** 28; // real numbers that a volume may take on the grid: 1 GiB
const PART = 8; // the Gaussian weight of a window's voxels has this part of a side as standard deviation

/** How many voxels of the grid a volume has, [depth, height, width]; its field of view stays. */
export function gridShape({ slices, height, width, voxel }, { spacing }) {
  const shape = [slices, height, width];
  if (!spacing || !voxel) return shape;
  return shape.map((count, k) => Math.max(1, halfToEven((count * voxel[k]) / spacing[k])));
}

/** A volume on the grid: {levels: uint8, shape}; linear, antialiased where it shrinks. */
export function onGrid(volume, settings) {
  const shape = gridShape(volume, settings);
  const [depth, height, width] = shape;
  const area = height * width;
  checkMemory(area * (depth + volume.slices));
  const isSame = depth === volume.slices && height === volume.height && width === volume.width;
  const across = new (isSame ? Uint8Array : Float32Array)(volume.slices * area);
  for (let k = 0; k < volume.slices; k++) {
    const { pixels } = volume.slice(k);
    const plane = isSame ? pixels : Float32Array.from(pixels);
    across.set(resizePlane(plane, volume.height, volume.width, height, width, settings.tall_first), k * area);
  }
  if (isSame) return { levels: across, shape };
  const down = resizePlane(across, volume.slices, area, depth, area, settings.tall_first);
  return { levels: Uint8Array.from(down, halfToEven), shape };
}

function checkMemory(numbers) {
  if (numbers <= MOST) return;
  throw new Unreadable(`needs ${Math.ceil(numbers / 2 ** 28)} GiB on the network's grid, more than the page takes: use segdistill predict`);
}

/** Where the windows of a volume begin, [z, y, x]; evenly spaced, in the volume padded to at least one window. */
export function windowsOf(shape, { size, overlap }) {
  const [zs, ys, xs] = shape.map((length, k) => {
    const step = Math.max(1, halfToEven(size[k] * (1 - overlap)));
    const count = Math.ceil((length - size[k]) / step) + 1;
    return Array.from({ length: count }, (_, n) => halfToEven((n * (length - size[k])) / Math.max(count - 1, 1)));
  });
  return zs.flatMap((z) => ys.flatMap((y) => xs.map((x) => [z, y, x])));
}

/** The weight of each voxel of a window; at its corners at least a thousandth of that in its middle. */
function gaussian(size) {
  const [zs, ys, xs] = size.map((n) =>
    Float64Array.from({ length: n }, (_, k) => Math.exp(-0.5 * ((k - (n - 1) / 2) / Math.max(n / PART, 0.5)) ** 2)),
  );
  const weights = new Float64Array(zs.length * ys.length * xs.length);
  let [place, most] = [0, 0];
  for (const z of zs) {
    for (const y of ys) {
      for (const x of xs) {
        weights[place] = z * y * x;
        most = Math.max(most, weights[place++]);
      }
    }
  }
  return Float32Array.from(weights, (weight) => Math.max(weight / most, 1e-3));
}

/**
 * Probabilities of a whole volume on the grid: the mean of its windows, which count more in their middle.
 *
 * Of one or two planes only the last is kept. `add` takes one window's output after the other.
 */
export class GridMap {
  constructor({ levels, shape }, settings) {
    this.levels = levels;
    this.inner = shape;
    this.settings = settings;
    this.shape = shape.map((length, k) => Math.max(length, settings.size[k]));
    this.before = this.shape.map((length, k) => Math.floor((length - shape[k]) / 2));
    this.windows = windowsOf(this.shape, settings);
    this.weights = gaussian(settings.size);
    this.sums = new Float32Array(this.shape[0] * this.shape[1] * this.shape[2]);
    this.planes = null;
  }

  /** Places of a window's voxels, row by row: `visit(z, y, start)` with the place of a row in the window. */
  rows(visit) {
    const [depth, height, width] = this.settings.size;
    for (let z = 0, start = 0; z < depth; z++) for (let y = 0; y < height; y++, start += width) visit(z, y, start);
  }

  /** The network's input for a window: float32 (channels, d, h, w). Beyond the volume its outermost voxels are repeated. */
  input(window) {
    const { size, channels, mean, std } = this.settings;
    const count = size[0] * size[1] * size[2];
    const [shift, scale] = [Math.fround(mean[0]), Math.fround(std[0])];
    const values = new Float32Array(256).map((_, level) => Math.fround(Math.fround(level / 255) - shift) / scale);
    const out = new Float32Array(channels * count);
    const inside = (place, axis) => Math.min(Math.max(place - this.before[axis], 0), this.inner[axis] - 1);
    this.rows((z, y, start) => {
      const row = (inside(window[0] + z, 0) * this.inner[1] + inside(window[1] + y, 1)) * this.inner[2];
      for (let x = 0; x < size[2]; x++) out[start + x] = values[this.levels[row + inside(window[2] + x, 2)]];
    });
    for (let c = 1; c < channels; c++) out.copyWithin(c * count, 0, count);
    return out;
  }

  /** Adds the output of a window, float32 (classes, d, h, w). */
  add(window, output, classes) {
    const { size } = this.settings;
    const count = size[0] * size[1] * size[2];
    const first = classes <= 2 ? classes - 1 : 0;
    if (!this.planes) {
      checkMemory((classes - first + 1) * this.sums.length);
      this.planes = Array.from({ length: classes - first }, () => new Float32Array(this.sums.length));
    }
    this.rows((z, y, start) => {
      const row = ((window[0] + z) * this.shape[1] + window[1] + y) * this.shape[2] + window[2];
      for (let x = 0; x < size[2]; x++) {
        const weight = this.weights[start + x];
        this.sums[row + x] += weight;
        this.planes.forEach((plane, c) => {
          plane[row + x] += Math.fround(output[(first + c) * count + start + x] * weight);
        });
      }
    });
  }

  /** Divides by the weights, when all windows are added. */
  finish() {
    for (const plane of this.planes) for (let k = 0; k < plane.length; k++) plane[k] /= this.sums[k];
    this.sums = this.levels = null;
  }

  /** Probabilities at slice `k` of `count`, on the grid's rows and columns: {planes, height, width}. */
  slice(k, count) {
    const [depth, height, width] = this.inner;
    const place = Math.min(Math.max(((k + 0.5) * depth) / count - 0.5, 0), depth - 1);
    const low = Math.floor(place);
    const high = Math.min(low + 1, depth - 1);
    const share = Math.fround(place - low);
    const rest = Math.fround(1 - share);
    const start = (z, y) => ((z + this.before[0]) * this.shape[1] + y + this.before[1]) * this.shape[2] + this.before[2];
    const planes = this.planes.map((plane) => {
      const mixed = new Float32Array(height * width);
      for (let y = 0; y < height; y++) {
        const [a, b] = [start(low, y), start(high, y)];
        for (let x = 0; x < width; x++) {
          mixed[y * width + x] = Math.fround(plane[a + x] * rest) + Math.fround(plane[b + x] * share);
        }
      }
      return mixed;
    });
    return { planes, height, width };
  }
}
