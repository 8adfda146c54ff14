// Runs the viewer's own modules without a browser: node viewer.mjs VIEWER-FOLDER < jobs.json > results.json
// A job is {"file", "settings"} (the network's inputs), {"mask", "height", "width", "spacing"} (a measurement)
// {"plane", "height", "width", "to"} (a resized plane of real numbers), or {"grid": number of classes, "file", "settings"}
// (a volume on the grid of a network of volumes, and its probabilities by a stand-in of the network).
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(`${process.argv[2]}/${name}.js`));
const { openFile } = await load("picture");
const { inputsOf, resultOf } = await load("prepare");
const { GridMap, onGrid } = await load("grid");
const { resizePlane } = await load("resize");
const { measure } = await load("measure");
const { encodePng } = await load("png");

const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const bytesOf = (text) => new Uint8Array(Buffer.from(text, "base64"));

/** In place of a network: class c has the first channel times a pattern that moves with the window's place. */
function standIn(input, classes, count) {
  const out = new Float32Array(classes * count);
  for (let k = 0; k < count; k++) {
    let rest = 1;
    for (let c = 1; c < classes; c++) {
      out[c * count + k] = Math.fround(Math.fround(input[k] * Math.fround(((k + c) % 7) / 7)) / (classes - 1));
      rest = Math.fround(rest - out[c * count + k]);
    }
    out[k] = rest;
  }
  return out;
}

function segmentGrid(volume, settings, classes) {
  const grid = onGrid(volume, settings);
  const map = new GridMap(grid, settings);
  const count = settings.size.reduce((a, b) => a * b);
  const windows = map.windows.length;
  for (const window of map.windows) map.add(window, standIn(map.input(window), classes, count), classes);
  map.finish();
  const results = Array.from({ length: volume.slices }, (_, k) =>
    resultOf(map.slice(k, volume.slices), volume.height, volume.width, settings),
  );
  return {
    levels: base64(grid.levels), shape: grid.shape, windows, foreground: results.map(({ foreground }) => base64(foreground)),
    labels: classes > 2 ? results.map(({ labels }) => base64(labels)) : null,
  };
}

async function work(job) {
  if (job.plane) {
    const plane = new Float32Array(bytesOf(job.plane).buffer);
    return { plane: base64(resizePlane(plane, job.height, job.width, ...job.to, job.tall_first)) };
  }
  if (job.mask) return measure(bytesOf(job.mask), job.height, job.width, job.spacing);
  if (job.levels) return { png: base64(await encodePng(bytesOf(job.levels), job.height, job.width)) };
  try {
    const image = await openFile(new Blob([readFileSync(job.file)]), job.settings.intensity ?? null);
    if (job.grid) return segmentGrid(image, job.settings, job.grid);
    const slices = image.kind === "volume" ? image.slices : 1;
    const inputs = [];
    for (let k = 0; k < slices; k++) inputs.push(...inputsOf(image.kind === "volume" ? image.slice(k) : image, job.settings));
    const { height, width, spacing } = image;
    const saved = job.masks && base64(await image.save(job.masks.map(bytesOf)));
    return { inputs: inputs.map(base64), height, width, spacing, voxel: image.voxel ?? null, saved };
  } catch (error) {
    return { error: error.message, kind: error.constructor.name };
  }
}

const jobs = JSON.parse(readFileSync(0, "utf8"));
const results = [];
for (const job of jobs) results.push(await work(job));
process.stdout.write(JSON.stringify(results));
