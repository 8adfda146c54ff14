// The network and everything that takes time, in a worker: the page stays alive. `ORT` is onnxruntime-web.
import { fromBase64, inflate, Unreadable } from "./bytes.js";
import { GridMap, onGrid } from "./grid.js";
import { openFile } from "./picture.js";
import { checkProbability, inputsOf, joinOutputs, resultOf } from "./prepare.js";

const KEPT = 2; // opened files
const MAPS = 2 ** 26; // real numbers of a volume's slices that are kept: 256 MiB
const opened = new Map();
let session = null;
let info = null;
let isCancelled = false;

const isOfVolumes = () => info.preprocess.dimensions === 3;
const inputShape = () => [1, info.preprocess.channels, ...info.preprocess.size];

/** Inflates the engine and the model, and makes the network ready. A model is base64 of gzip, or its address. */
async function load({ engine, model, url, record }) {
  const began = performance.now();
  info = record;
  ORT.env.wasm.numThreads = 1; // file:// has no SharedArrayBuffer
  ORT.env.wasm.wasmBinary = await inflate(fromBase64(engine), "gzip", Infinity);
  const bytes = url ? new Uint8Array(await (await fetched(url)).arrayBuffer()) : await inflate(fromBase64(model), "gzip", Infinity);
  session = await ORT.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await run(new Float32Array(inputShape().reduce((a, b) => a * b))); // the first run allocates
  return { milliseconds: performance.now() - began };
}

async function fetched(url) {
  const response = await fetch(url).catch(() => null);
  if (!response) throw new Unreadable("cannot be loaded: segdistill view has ended: start it again");
  if (!response.ok) throw new Unreadable(await response.text());
  return response;
}

async function run(input) {
  const shape = inputShape();
  const found = await session.run({ image: new ORT.Tensor("float32", input, shape) });
  const mask = found.probability;
  const [, classes, ...size] = mask.dims;
  if (size.join() !== shape.slice(2).join()) throw new Unreadable("makes the network give another size than its input");
  const labels = info.labels?.length ? checkProbability(await found.label.getData()) : null;
  return { classes, mask: checkProbability(await mask.getData()), labels };
}

/** An opened file, a Blob or an address; the two that were used last are kept. */
async function open({ id, file }) {
  const image = opened.get(id) ?? (await read(file));
  opened.delete(id);
  opened.set(id, image);
  if (opened.size > KEPT) opened.delete(opened.keys().next().value);
  return image;
}

async function read(file) {
  const intensity = info.preprocess.intensity ?? null;
  let image;
  if (typeof file === "string") {
    const response = await fetched(file);
    image = await openFile(await response.blob(), intensity);
    Object.assign(image, JSON.parse(response.headers.get("x-known") ?? "{}"));
  } else image = await openFile(file, intensity);
  if (isOfVolumes() && image.kind !== "volume") {
    throw new Unreadable("is a picture, and the network segments whole volumes: open a NIfTI volume");
  }
  return image;
}

async function describe(request) {
  const { kind, height, width, slices = 1, spacing, voxel = null } = await open(request);
  return { kind, height, width, slices, spacing, millilitres: voxel && (voxel[0] * voxel[1] * voxel[2]) / 1000 };
}

const pixelsOf = (image, k) => (image.kind === "volume" ? image.slice(k) : image);

/** The network's probabilities of a picture or slice, at its own size or that of its patches. */
async function mapOf(picture) {
  const { height, width } = picture;
  const outputs = [];
  for (const input of inputsOf(picture, info.preprocess)) outputs.push(await run(input));
  const joint = joinOutputs(outputs.map(({ mask }) => mask), outputs[0].classes, info.preprocess, height, width);
  if (joint.planes.length <= 2) joint.planes = [joint.planes.at(-1).slice()];
  joint.chances = (info.labels ?? []).map((_, n) => outputs.reduce((sum, each) => sum + each.labels[n], 0) / outputs.length);
  return joint;
}

/** As `mapOf`, of slice `k`: kept, as long as there is room. A network of volumes has none before `whole`. */
async function mapOfSlice(volume, k, slice) {
  if (isOfVolumes()) return volume.grid ? { ...volume.grid.slice(k, volume.slices), chances: [] } : null;
  volume.maps ??= new Map();
  if (!volume.maps.has(k)) {
    const joint = await mapOf(slice);
    volume.maps.set(k, joint);
    const room = MAPS / (joint.planes.length * joint.height * joint.width);
    if (volume.maps.size > room) volume.maps.delete(volume.maps.keys().next().value);
  }
  return volume.maps.get(k);
}

/** Segments a picture, or one slice of a volume; `foreground` is null where the volume is not segmented yet. */
async function segment(request) {
  const image = await open(request);
  const k = request.slice ?? 0;
  const picture = pixelsOf(image, k);
  const { height, width, channels } = picture;
  const began = performance.now();
  const joint = image.kind === "volume" ? await mapOfSlice(image, k, picture) : await mapOf(picture);
  const { foreground, labels } = joint ? resultOf(joint, height, width, info.preprocess) : { foreground: null, labels: null };
  return {
    height, width, channels, pixels: picture.pixels.slice(), foreground: foreground && foreground.slice(), labels,
    chances: joint?.chances ?? [], milliseconds: performance.now() - began,
  };
}

/** Segments a whole volume in windows. {isDone: false} where it was cancelled. */
async function whole(request, number) {
  const image = await open(request);
  if (image.grid) return { isDone: true, milliseconds: image.grid.milliseconds };
  const began = performance.now();
  const map = new GridMap(onGrid(image, info.preprocess), info.preprocess);
  let shown = 0;
  for (const [k, window] of map.windows.entries()) {
    if (performance.now() - shown > 50) {
      self.postMessage({ number, progress: [k, map.windows.length] });
      await new Promise((resolve) => setTimeout(resolve)); // a cancel comes in, and tasks of other images
      shown = performance.now();
    }
    if (isCancelled) return { isDone: false };
    const { classes, mask } = await run(map.input(window));
    map.add(window, mask, classes);
  }
  map.finish();
  map.milliseconds = performance.now() - began;
  for (const other of opened.values()) delete other.grid; // one volume's at a time
  image.grid = map;
  opened.set(request.id, image); // others may have been opened meanwhile
  return { isDone: true, milliseconds: map.milliseconds };
}

/** The network's input, for tests. */
async function prepare(request) {
  const image = await open(request);
  if (!isOfVolumes()) return { inputs: inputsOf(pixelsOf(image, request.slice ?? 0), info.preprocess) };
  return { inputs: [Float32Array.from(onGrid(image, info.preprocess).levels)] };
}

async function save(request) {
  return { bytes: await (await open(request)).save(request.masks) };
}

const TASKS = { load, describe, segment, whole, prepare, save };
let queue = Promise.resolve();

function buffersOf(result) {
  const arrays = Object.values(result).flat().filter((value) => ArrayBuffer.isView(value));
  return [...new Set(arrays.map((array) => array.buffer))];
}

async function post(number, task, request) {
  try {
    const result = await TASKS[task](request, number);
    self.postMessage({ number, result }, buffersOf(result));
  } catch (error) {
    const reason = error instanceof Unreadable ? error.message : `${error?.message ?? error}`.slice(0, 300);
    self.postMessage({ number, reason });
  }
}

self.onmessage = ({ data: { number, task, request } }) => {
  if (task === "cancel") {
    isCancelled = true;
    return;
  }
  if (task === "whole") isCancelled = false;
  const work = () => post(number, task, request);
  if (task === "whole") work(); // others go on between its windows
  else queue = queue.then(work);
};
