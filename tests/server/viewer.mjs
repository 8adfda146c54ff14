// Runs the viewer's own modules without a browser: node viewer.mjs VIEWER-FOLDER < jobs.json > results.json
// A job is {"file", "settings"} (the network's inputs), {"mask", "height", "width", "spacing"} (a measurement)
// or {"plane", "height", "width", "to"} (a resized plane of real numbers).
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(`${process.argv[2]}/${name}.js`));
const { openFile } = await load("picture");
const { inputsOf } = await load("prepare");
const { resizePlane } = await load("resize");
const { measure } = await load("measure");
const { encodePng } = await load("png");

const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const bytesOf = (text) => new Uint8Array(Buffer.from(text, "base64"));

async function work(job) {
  if (job.plane) {
    const plane = new Float32Array(bytesOf(job.plane).buffer);
    return { plane: base64(resizePlane(plane, job.height, job.width, ...job.to, job.tall_first)) };
  }
  if (job.mask) return measure(bytesOf(job.mask), job.height, job.width, job.spacing);
  if (job.levels) return { png: base64(await encodePng(bytesOf(job.levels), job.height, job.width)) };
  try {
    const image = await openFile(new Blob([readFileSync(job.file)]), job.settings.intensity ?? null);
    const slices = image.kind === "volume" ? image.slices : 1;
    const inputs = [];
    for (let k = 0; k < slices; k++) inputs.push(...inputsOf(image.kind === "volume" ? image.slice(k) : image, job.settings));
    const { height, width, spacing } = image;
    const saved = job.masks && base64(await image.save(job.masks.map(bytesOf)));
    return { inputs: inputs.map(base64), height, width, spacing, millilitres: image.millilitres ?? null, saved };
  } catch (error) {
    return { error: error.message, kind: error.constructor.name };
  }
}

const jobs = JSON.parse(readFileSync(0, "utf8"));
const results = [];
for (const job of jobs) results.push(await work(job));
process.stdout.write(JSON.stringify(results));
