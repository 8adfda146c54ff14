// Bilinear resizing, antialiased where it shrinks: the numbers of Pillow's resampling, bit for bit.
// Whole numbers use fixed-point weights of 22 bits and round after each direction; real ones sum in double precision.

const BITS = 22;

/** For each of `to` outputs: the first input, and the weights of it and those that follow. */
function weightsOf(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, k) => {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const after = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = new Float64Array(after - first);
    let sum = 0;
    for (let n = 0; n < weights.length; n++) {
      weights[n] = Math.max(0, 1 - Math.abs((n + first - centre + 0.5) * (1 / support)));
      sum += weights[n];
    }
    for (let n = 0; sum !== 0 && n < weights.length; n++) weights[n] /= sum;
    return { first, weights };
  });
}

/** Fixed-point weights. */
function whole(entries) {
  return entries.map(({ first, weights }) => ({
    first,
    weights: Int32Array.from(weights, (weight) => Math.trunc(0.5 + weight * 2 ** BITS)),
  }));
}

const roundLevel = (sum) => Math.min(255, Math.max(0, sum >> BITS));

/** One direction: `count` lines of inputs with a stride between neighbours on the line, to lines of outputs. */
function pass(source, target, entries, lines, [step, next], [toStep, toNext], start, finish) {
  for (let line = 0; line < lines; line++) {
    for (let k = 0; k < entries.length; k++) {
      const { first, weights } = entries[k];
      let sum = start;
      let place = line * next + first * step;
      for (let n = 0; n < weights.length; n++, place += step) sum += source[place] * weights[n];
      target[line * toNext + k * toStep] = finish(sum);
    }
  }
}

/**
 * A plane (height, width) of uint8 or float32 at another size.
 *
 * Rows are resized before columns, or, with `tallFirst`, the other way round where the height shrinks by far more: as
 * Pillow does it since version 13. The order moves a level by one here and there, so the page keeps that of its maker.
 */
export function resizePlane(plane, height, width, toHeight, toWidth, tallFirst) {
  const isTall = tallFirst && toHeight < height && height - toHeight > 2 * (width - toWidth);
  const steps = [resizeAcross, resizeDown];
  let current = { plane, height, width };
  for (const step of isTall ? steps.reverse() : steps) current = step(current, toHeight, toWidth);
  return current.plane;
}

function resizeAcross({ plane, height, width }, _, toWidth) {
  if (width === toWidth) return { plane, height, width };
  const { Kind, weights, start, finish } = arithmetic(plane, width, toWidth);
  const out = new Kind(height * toWidth);
  pass(plane, out, weights, height, [1, width], [1, toWidth], start, finish);
  return { plane: out, height, width: toWidth };
}

function resizeDown({ plane, height, width }, toHeight) {
  if (height === toHeight) return { plane, height, width };
  const { Kind, weights, start, finish } = arithmetic(plane, height, toHeight);
  const out = new Kind(toHeight * width);
  pass(plane, out, weights, width, [width, 1], [width, 1], start, finish);
  return { plane: out, height: toHeight, width };
}

/** Of whole numbers, or of real ones. */
function arithmetic(plane, from, to) {
  const weights = weightsOf(from, to);
  if (!(plane instanceof Uint8Array)) return { Kind: Float32Array, weights, start: 0, finish: (sum) => sum };
  return { Kind: Uint8Array, weights: whole(weights), start: 2 ** (BITS - 1), finish: roundLevel };
}
