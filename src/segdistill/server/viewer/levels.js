// Values to 8 bits, as segdistill.imaging.intensity does it: double precision, halves up.
import { Unreadable } from "./bytes.js";

const DEPTHS = [8, 10, 12, 14, 16];

/** Smallest and largest value; a NaN or an infinite one is refused. */
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (let k = 0; k < values.length; k++) {
    const value = values[k];
    if (value !== value) throw new Unreadable("has pixels that are NaN or infinite: restore the file");
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(Number.isFinite(low) && Number.isFinite(high))) {
    throw new Unreadable("has pixels that are NaN or infinite: restore the file");
  }
  return [low, high];
}

/** Scales low..high linearly to 0..255 and clips; all zero when they are equal. */
export function stretch(values, low, high) {
  const levels = new Uint8Array(values.length);
  if (!(high > low)) return levels;
  for (let k = 0; k < values.length; k++) {
    const level = ((values[k] - low) / (high - low)) * 255;
    levels[k] = Math.floor(Math.min(Math.max(level, 0), 255) + 0.5);
  }
  return levels;
}

/** The values (low, high) that become black and white, by an intensity {kind, low, high} or null: the whole range. */
export function limitsOf(values, intensity) {
  const { kind, low, high } = intensity ?? { kind: "range" };
  if (kind === "window") return [low, high];
  if (kind === "range") return extent(values);
  const [mean, deviation] = moments(values);
  return [mean + low * deviation, mean + high * deviation];
}

/** Mean and standard deviation. */
function moments(values) {
  extent(values);
  const mean = total(values, (value) => value) / values.length;
  const squares = total(values, (value) => (value - mean) * (value - mean));
  return [mean, Math.sqrt(squares / values.length)];
}

/** The sum of a function of every value, with Neumaier's compensation. */
function total(values, of) {
  let sum = 0;
  let lost = 0;
  for (let k = 0; k < values.length; k++) {
    const value = of(values[k]);
    const next = sum + value;
    lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  return sum + lost;
}

/** Unsigned 16-bit values of a picture to 8 bits: by the intensity, else by the full scale of their depth. */
export function sixteenToEight(values, intensity) {
  if (intensity) return stretch(values, ...limitsOf(values, intensity));
  const [, high] = extent(values);
  const factor = 255 / (2 ** DEPTHS.find((bits) => high < 2 ** bits) - 1);
  const levels = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) levels[k] = Math.floor(Math.min(values[k] * factor, 255) + 0.5);
  return levels;
}
