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

/** Runs of foreground in raster order, and the root of each: the first run of its 8-connected component. */
function findRuns(mask, height, width) {
  const runs = [];
  const parent = [];
  const root = (k) => {
    while (parent[k] !== k) k = parent[k] = parent[parent[k]];
    return k;
  };
  let above = [0, 0]; // first run of the row above, and the one behind its last
  for (let y = 0; y < height; y++) {
    const first = runs.length;
    let near = above[0];
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      const start = x;
      while (x < width && mask[y * width + x]) x++;
      const k = parent.push(runs.length) - 1;
      runs.push([y, start, x]);
      while (near < above[1] && runs[near][2] < start) near++;
      for (let n = near; n < above[1] && runs[n][1] <= x; n++) {
        const [a, b] = [root(n), root(k)];
        parent[Math.max(a, b)] = Math.min(a, b);
      }
    }
    above = [first, runs.length];
  }
  return { runs, roots: parent.map((_, k) => root(k)) };
}

/** Leftmost and rightmost pixels of each row of the largest component, and its box; of equal ones the first counts. */
function largest(mask, height, width) {
  const { runs, roots } = findRuns(mask, height, width);
  const sizes = new Float64Array(runs.length);
  runs.forEach(([, start, stop], k) => (sizes[roots[k]] += stop - start));
  const best = sizes.reduce((most, size, k) => (size > sizes[most] ? k : most), 0);
  const rows = new Map();
  const box = [width, height, 0, 0];
  runs.forEach(([y, start, stop], k) => {
    if (roots[k] !== best) return;
    const ends = rows.get(y) ?? [start, stop - 1];
    rows.set(y, [Math.min(ends[0], start), Math.max(ends[1], stop - 1)]);
    [box[0], box[1]] = [Math.min(box[0], start), Math.min(box[1], y)];
    [box[2], box[3]] = [Math.max(box[2], stop), Math.max(box[3], y + 1)];
  });
  return { rows, box };
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
