// The network and everything that takes time, in a worker: the page stays alive. `ORT` is onnxruntime-web.
import { fromBase64, inflate, Unreadable } from "./bytes.js";
import { openFile } from "./picture.js";
import { checkProbability, inputsOf, joinOutputs, resultOf } from "./prepare.js";

const KEPT = 2; // opened files
const opened = new Map();
let session = null;
let info = null;

/** Inflates the engine and the model, and makes the network ready. */
async function load({ engine, model, record }) {
  const began = performance.now();
  info = record;
  ORT.env.wasm.numThreads = 1; // file:// has no SharedArrayBuffer
  ORT.env.wasm.wasmBinary = await inflate(fromBase64(engine), "gzip", Infinity);
  const bytes = await inflate(fromBase64(model), "gzip", Infinity);
  session = await ORT.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const settings = info.preprocess;
  await run(new Float32Array(settings.channels * settings.size[0] * settings.size[1])); // the first run allocates
  return { milliseconds: performance.now() - began };
}

async function run(input) {
  const { channels, size } = info.preprocess;
  const found = await session.run({ image: new ORT.Tensor("float32", input, [1, channels, ...size]) });
  const mask = found.probability;
  const [, classes, height, width] = mask.dims;
  if (height !== size[0] || width !== size[1]) throw new Unreadable("makes the network give another size than its input");
  const labels = info.labels?.length ? checkProbability(await found.label.getData()) : null;
  return { classes, mask: checkProbability(await mask.getData()), labels };
}

async function open({ id, file }) {
  if (!opened.has(id)) {
    opened.set(id, await openFile(file, info.preprocess.intensity ?? null));
    if (opened.size > KEPT) opened.delete(opened.keys().next().value);
  }
  return opened.get(id);
}

async function describe(request) {
  const { kind, height, width, slices = 1, spacing, millilitres = null } = await open(request);
  return { kind, height, width, slices, spacing, millilitres };
}

const pixelsOf = (image, k) => (image.kind === "volume" ? image.slice(k) : image);

/** Segments a picture, or one slice of a volume. */
async function segment(request) {
  const image = pixelsOf(await open(request), request.slice ?? 0);
  const { height, width, channels } = image;
  const began = performance.now();
  const inputs = inputsOf(image, info.preprocess);
  const outputs = [];
  for (const input of inputs) outputs.push(await run(input));
  const network = performance.now();
  const joint = joinOutputs(outputs.map(({ mask }) => mask), outputs[0].classes, info.preprocess, height, width);
  const { foreground, labels } = resultOf(joint, height, width, info.preprocess);
  const chances = (info.labels ?? []).map((_, n) => outputs.reduce((sum, each) => sum + each.labels[n], 0) / outputs.length);
  const milliseconds = performance.now() - began;
  return {
    height, width, channels, pixels: image.pixels.slice(), foreground: foreground.slice(), labels, chances,
    milliseconds, after: performance.now() - network,
  };
}

/** The network's input, for tests. */
async function prepare(request) {
  return { inputs: inputsOf(pixelsOf(await open(request), request.slice ?? 0), info.preprocess) };
}

async function save(request) {
  return { bytes: await (await open(request)).save(request.masks) };
}

const TASKS = { load, describe, segment, prepare, save };
let queue = Promise.resolve();

function buffersOf(result) {
  const arrays = Object.values(result).flat().filter((value) => ArrayBuffer.isView(value));
  return [...new Set(arrays.map((array) => array.buffer))];
}

self.onmessage = ({ data: { number, task, request } }) => {
  queue = queue.then(async () => {
    try {
      const result = await TASKS[task](request);
      self.postMessage({ number, result }, buffersOf(result));
    } catch (error) {
      const reason = error instanceof Unreadable ? error.message : `${error?.message ?? error}`.slice(0, 300);
      self.postMessage({ number, reason, isInput: error instanceof Unreadable });
    }
  });
};
