// Area and diameters of a mask, as segdistill.runtime.measure has them.

/** {area_px, long_px, short_px, area_mm2, long_mm, short_mm, box, axis}; mm null where the spacing is not known. */
export function measure(mask, height, width, spacing) {
  let area = 0;
  for (let k = 0; k < mask.length; k++) area += mask[k] !== 0;
  const known = spacing && holdsFor(mask, height, width, spacing.region) ? spacing : null;
  const mm = (value) => (known ? value : null);
  if (!area) {
    return { area_px: 0, long_px: 0, short_px: 0, area_mm2: mm(0), long_mm: mm(0), short_mm: mm(0), box: null, axis: null };
  }
  const { rows, box } = largest(mask, height, width);
  const hull = convexHull(rows);
  const px = feret(hull);
  const real = known && feret(hull.map(([x, y]) => [x * known.column, y * known.row]));
  return {
    area_px: area,
    long_px: px.long,
    short_px: px.short,
    area_mm2: known ? area * known.row * known.column : null,
    long_mm: known ? real.long : null,
    short_mm: known ? real.short : null,
    box,
    axis: [hull[px.ends[0]], hull[px.ends[1]]],
  };
}

/** Whether every foreground pixel lies where the spacing is valid, a region [top, left, bottom, right] or null. */
function holdsFor(mask, height, width, region) {
  if (!region) return true;
  const [top, left, bottom, right] = region;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (mask[y * width + x] && (y < top || y >= bottom || x < left || x >= right)) return false;
    }
  }
  return true;
}

/** Leftmost and rightmost pixels of each row of the largest 8-connected component, and its box. */
function largest(mask, height, width) {
  const seen = new Uint8Array(mask.length);
  let best = null;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || seen[start]) continue;
    const found = flood(mask, seen, start, height, width);
    if (!best || found.size > best.size) best = found;
  }
  const ys = [...best.rows.keys()];
  const ends = [...best.rows.values()];
  const box = [
    ends.reduce((low, [left]) => Math.min(low, left), Infinity),
    ys.reduce((low, y) => Math.min(low, y), Infinity),
    ends.reduce((high, [, right]) => Math.max(high, right), 0) + 1,
    ys.reduce((high, y) => Math.max(high, y), 0) + 1,
  ];
  return { rows: best.rows, box };
}

function flood(mask, seen, start, height, width) {
  const rows = new Map();
  const stack = [start];
  let size = 0;
  seen[start] = 1;
  while (stack.length) {
    const place = stack.pop();
    const [y, x] = [Math.floor(place / width), place % width];
    const ends = rows.get(y);
    if (!ends) rows.set(y, [x, x]);
    else if (x < ends[0]) ends[0] = x;
    else if (x > ends[1]) ends[1] = x;
    size += 1;
    for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny++) {
      for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx++) {
        const next = ny * width + nx;
        if (mask[next] && !seen[next]) {
          seen[next] = 1;
          stack.push(next);
        }
      }
    }
  }
  return { rows, size };
}

/** The convex hull of the corners of all pixels, as [x, y]. Source: A. M. Andrew, 1979. */
function convexHull(rows) {
  const corners = new Map();
  for (const [y, [left, right]] of rows) {
    for (const edge of [y, y + 1]) {
      const ends = corners.get(edge) ?? [Infinity, -1];
      corners.set(edge, [Math.min(ends[0], left), Math.max(ends[1], right + 1)]);
    }
  }
  const points = [...corners.keys()]
    .sort((a, b) => a - b)
    .flatMap((y) => corners.get(y).map((x) => [x, y]));
  return [...halfHull(points), ...halfHull(points.slice().reverse())];
}

function halfHull(points) {
  const hull = [];
  for (const [x, y] of points) {
    while (hull.length > 1) {
      const [[ax, ay], [bx, by]] = hull.slice(-2);
      if ((bx - ax) * (y - ay) < (by - ay) * (x - ax)) break;
      hull.pop();
    }
    hull.push([x, y]);
  }
  return hull.slice(0, -1);
}

/** The diameter of a convex polygon, the width perpendicular to it, and which corners are the diameter's ends. */
function feret(hull) {
  let longest = 0;
  for (const [ax, ay] of hull) {
    for (const [bx, by] of hull) longest = Math.max(longest, (ax - bx) ** 2 + (ay - by) ** 2);
  }
  if (longest === 0) return { long: 0, short: 0, ends: [0, 0] };
  const found = { long: Math.sqrt(longest), short: -1, ends: [0, 0] };
  for (let a = 0; a < hull.length; a++) {
    for (let b = a + 1; b < hull.length; b++) {
      const [dx, dy] = [hull[a][0] - hull[b][0], hull[a][1] - hull[b][1]];
      if (dx * dx + dy * dy < longest * (1 - 1e-12)) continue;
      const across = hull.map(([x, y]) => x * dy - y * dx);
      const short = (Math.max(...across) - Math.min(...across)) / found.long;
      if (short > found.short) Object.assign(found, { short, ends: [a, b] });
    }
  }
  return found;
}
