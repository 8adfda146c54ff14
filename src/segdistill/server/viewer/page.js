// The page: opened images, what is shown of the chosen one, keys and downloads. The work is done in the worker.
import { encodePng } from "./png.js";
import { measure } from "./measure.js";
import { labelColumns, pictureRow, tableText, volumeRow } from "./table.js";
import { View, colourOf, pictureCanvas } from "./view.js";

const $ = (id) => document.getElementById(id);
const record = JSON.parse($("record").textContent);
const isMulti = record.classes.length > 2;
const settings = { threshold: record.threshold, hidden: new Set() };
const cases = [];
let current = null;
let stopped = false;

// --- the worker ---

const waiting = new Map();
let worker = null;
let count = 0;

/** A task of the worker. */
function call(task, request, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ number: count, task, request }, transfer);
  });
}

function start() {
  const url = URL.createObjectURL(new Blob([$("worker").textContent], { type: "text/javascript" }));
  worker = new Worker(url);
  worker.onmessage = ({ data: { number, result, reason } }) => {
    const { resolve, reject } = waiting.get(number);
    waiting.delete(number);
    if (reason === undefined) resolve(result);
    else reject(new Error(reason));
  };
  worker.onerror = (event) => stop(`The page's worker did not start (${event.message ?? "no reason"}). Use a current Chrome, Edge, Firefox or Safari.`);
  const request = { record, engine: $("engine").textContent, model: $("model").textContent };
  return call("load", request).then((found) => {
    for (const id of ["engine", "model", "worker"]) $(id).remove();
    return found;
  });
}

/** What the browser lacks, as one sentence; "" where it has all. */
function lacking() {
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  if (typeof WebAssembly === "undefined") return "This browser has no WebAssembly";
  if (!WebAssembly.validate(new Uint8Array(simd))) return "This browser has WebAssembly without SIMD";
  if (typeof DecompressionStream === "undefined") return "This browser cannot inflate data (DecompressionStream)";
  return "";
}

function stop(text) {
  $("empty").hidden = true;
  $("problem").textContent = text;
  $("problem").hidden = false;
  $("open").disabled = true;
}

let leaving = 0;

function say(text, isLasting = false) {
  clearTimeout(leaving);
  $("status").textContent = text;
  if (text && !isLasting) leaving = setTimeout(() => ($("status").textContent = ""), 3500);
}

// --- images ---

/** Adds files and segments the pictures one after another; a volume is segmented slice by slice as it is looked at. */
async function add(files) {
  const added = [...files].map((file) => ({
    id: `case-${cases.length}-${Math.random()}`, file, name: file.name, state: "waiting", note: "waiting", slice: 0,
    results: new Map(), row: null,
  }));
  if (!added.length) return;
  for (const item of added) {
    item.id = `case-${cases.push(item)}`;
    addButton(item);
  }
  $("empty").hidden = true;
  $("table-bar").hidden = false;
  await ready;
  choose(added[0]);
  for (const item of added) {
    await described(item);
    if (item.state !== "failed" && item.kind === "picture" && !item.row) await segmentPicture(item);
    if (item !== current) item.results.clear();
  }
}

async function described(item) {
  item.opening ??= call("describe", { id: item.id, file: item.file }).then(
    (found) => {
      Object.assign(item, found, { state: "open", note: sizeText(found), slice: Math.floor(found.slices / 2) });
      updateButton(item);
    },
    (error) => fail(item, error),
  );
  await item.opening;
}

function fail(item, error) {
  Object.assign(item, { state: "failed", note: error.message });
  updateButton(item);
  if (item === current) show();
}

/** The result for a picture or a slice, which is kept while its image is chosen. */
async function resultFor(item, slice = item.slice) {
  if (!item.results.has(slice)) {
    const result = await call("segment", { id: item.id, file: item.file, slice });
    item.results.set(slice, result);
    if (!item.isPainted) paintThumbnail(item, result);
  }
  return item.results.get(slice);
}

async function segmentPicture(item) {
  try {
    const result = await resultFor(item, 0);
    if (item === current) await show();
    else noteResult(item, result, measured(item, result));
  } catch (error) {
    fail(item, error);
  }
}

/** The mask of a result at the threshold, its size and the mean probability inside. */
function measured(item, result) {
  const mask = maskOf(result);
  return {
    mask, size: measure(mask, item.height, item.width, item.spacing), mean: meanInside(mask, result.foreground),
  };
}

/** Keeps the row of a picture for the table. */
function noteResult(item, result, { size, mean }) {
  item.row = {
    ...pictureRow(item.name, size, item.spacing, mean, result.milliseconds),
    ...labelColumns(record.labels, result.chances, size.box),
  };
  Object.assign(item, { threshold: settings.threshold, state: "done", note: size.area_px ? areaText(size) : "nothing found" });
  updateButton(item);
}

/** Class numbers of a result at the threshold. */
function maskOf({ foreground, labels }) {
  if (labels) return labels;
  const limit = Math.fround(settings.threshold);
  return Uint8Array.from(foreground, (value) => (value > limit ? 1 : 0));
}

function meanInside(mask, foreground) {
  let [sum, inside] = [0, 0];
  for (let k = 0; k < mask.length; k++) {
    if (mask[k]) {
      sum += foreground[k];
      inside += 1;
    }
  }
  return inside ? sum / inside : null;
}

async function choose(item) {
  if (current && current !== item && current.kind === "picture") current.results.clear();
  current = item;
  for (const each of cases) updateButton(each);
  item.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  await described(item);
  if (item === current) show();
}

/** Shows the chosen image; its result follows. */
async function show() {
  const item = current;
  const isVolume = item.kind === "volume";
  $("problem").hidden = item.state !== "failed";
  $("problem").textContent = `${item.name} ${item.note}`;
  $("stage").classList.toggle("with-slices", isVolume);
  $("slices").hidden = $("volume-section").hidden = !isVolume;
  $("tools").hidden = item.state === "failed";
  if (item.state === "failed") {
    view.show(null);
    clearResult();
    return;
  }
  if (item.state === "waiting") return;
  if (isVolume) showSlices(item);
  const slice = item.slice;
  try {
    const result = await resultFor(item, slice);
    if (item !== current || slice !== item.slice) return;
    if (view.image !== result) view.show(result);
    showResult(item, result);
  } catch (error) {
    fail(item, error);
  }
}

function clearResult() {
  for (const id of ["caption", "timing", "readout", "calibration"]) $(id).textContent = "";
  list($("measures"), [["No image is shown", ""]]);
  $("label-section").hidden = true;
  $("scale").hidden = true;
  $("save-mask").disabled = $("save-overlay").disabled = true;
  $("view").setAttribute("aria-label", "No image is shown");
}

function showResult(item, result) {
  const found = measured(item, result);
  const { mask, size, mean } = found;
  if (item.kind === "picture") noteResult(item, result, found);
  view.setMask(mask, settings.hidden, size.axis);
  showMeasures(item, size, mean);
  showLabels(result.chances);
  showClasses(item, mask);
  const place = item.kind === "volume" ? `, slice ${item.slice + 1} of ${item.slices}` : "";
  $("caption").textContent = `${item.name}\n${item.width} × ${item.height}${place ? ` · ${place.slice(2)}` : ""}`;
  $("timing").textContent = `${Math.round(result.milliseconds)} ms`;
  $("save-mask").disabled = $("save-overlay").disabled = false;
  $("view").setAttribute("aria-label", `${item.name}${place}: ${size.area_px ? `segmented, ${areaText(size)}` : "nothing found"}`);
}

// --- measurements ---

const numberText = (value, digits = 1) =>
  value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

function areaText(size) {
  return size.area_mm2 === null ? `${size.area_px.toLocaleString("en")} px` : `${numberText(size.area_mm2)} mm²`;
}

function sizeText({ width, height, slices, kind }) {
  return kind === "volume" ? `${width} × ${height}, ${slices} slices` : `${width} × ${height}`;
}

function list(target, rows) {
  target.replaceChildren(...rows.flatMap(([name, text, kind = ""]) => {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    value.textContent = text;
    value.className = kind;
    return [term, value];
  }));
}

function showMeasures(item, size, mean) {
  const isReal = size.area_mm2 !== null;
  const length = (px, mm) => (isReal ? `${numberText(mm)} mm` : `${numberText(px)} px`);
  const rows = size.area_px
    ? [
        ["Area", areaText(size), "big"],
        ["Long axis", length(size.long_px, size.long_mm)],
        ["Short axis", length(size.short_px, size.short_mm)],
        ["Mean probability", numberText(mean, 3)],
      ]
    : [["Area", "nothing found", "big"]];
  list($("measures"), rows);
  const reason = item.spacing ? "the mask leaves the region in which it holds" : "the file does not state one";
  $("calibration").textContent = isReal
    ? `Pixel size ${numberText(item.spacing.column, 3)} × ${numberText(item.spacing.row, 3)} mm, from ${item.spacing.source}. ` +
      "Axes of the largest region."
    : `In pixels: no pixel size, ${reason}. Axes of the largest region.`;
  showScale(item);
}

/** A bar of a round length in mm; none where the pixel size is not known. */
function showScale(item) {
  $("scale").hidden = !item?.spacing;
  if (!item?.spacing) return;
  const perMillimetre = view.scale / view.ratio / item.spacing.column;
  const length = [1, 2, 5, 10, 20, 50, 100, 200].filter((mm) => mm * perMillimetre <= 170).at(-1) ?? 1;
  $("scale").firstElementChild.textContent = `${length} mm`;
  $("scale").lastElementChild.style.width = `${length * perMillimetre}px`;
}

function showLabels(chances) {
  $("label-section").hidden = !record.labels.length;
  const best = Math.max(...chances);
  $("labels").replaceChildren(...record.labels.map((name, k) => {
    const [line, text, meter] = ["li", "div", "meter"].map((kind) => document.createElement(kind));
    const [left, right] = [document.createElement("span"), document.createElement("span")];
    left.textContent = name;
    right.textContent = numberText(chances[k], 3);
    text.append(left, right);
    text.className = chances[k] === best ? "first" : "";
    meter.value = chances[k];
    meter.setAttribute("aria-label", `${name}: probability ${numberText(chances[k], 3)}`);
    line.append(text, meter);
    return line;
  }));
}

function showClasses(item, mask) {
  if (!isMulti) return;
  const sizes = new Array(record.classes.length).fill(0);
  for (const number of mask) sizes[number] += 1;
  for (const small of $("classes").querySelectorAll("small")) {
    const pixels = sizes[Number(small.dataset.number)];
    const area = item.spacing ? `${numberText(pixels * item.spacing.row * item.spacing.column)} mm²` : `${pixels} px`;
    small.textContent = pixels ? area : "–";
  }
}

function makeClasses() {
  $("class-section").hidden = !isMulti;
  $("threshold-field").hidden = isMulti;
  if (!isMulti) return;
  $("classes").replaceChildren(...record.classes.slice(1).map((name, k) => {
    const [line, label, box, swatch, size] = ["li", "label", "input", "span", "small"].map((kind) => document.createElement(kind));
    Object.assign(box, { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) settings.hidden.delete(k + 1);
      else settings.hidden.add(k + 1);
      refresh();
    });
    swatch.className = "swatch";
    swatch.style.background = `rgb(${colourOf(k + 1).join(" ")})`;
    size.dataset.number = k + 1;
    label.append(box, swatch, name, size);
    line.append(label);
    return line;
  }));
}

/** Draws the chosen result again, with another threshold or other classes. */
function refresh() {
  const result = current?.results.get(current.slice);
  if (result) showResult(current, result);
  if (current?.kind === "volume") showVolume(current);
}

// --- volumes ---

function showSlices(item) {
  Object.assign($("slice"), { max: item.slices, value: item.slice + 1 });
  $("slice-number").textContent = `${item.slice + 1} of ${item.slices}`;
  $("slice").setAttribute("aria-valuetext", `slice ${item.slice + 1} of ${item.slices}`);
  showVolume(item);
}

function goTo(slice) {
  if (current?.kind !== "volume") return;
  current.slice = Math.min(Math.max(slice, 0), current.slices - 1);
  show();
}

/** Totals over the slices that are segmented, and their profile above the slider. */
function showVolume(item) {
  const sizes = new Array(record.classes.length).fill(0);
  const profile = new Array(item.slices).fill(0);
  let [sum, inside] = [0, 0];
  for (const [k, result] of item.results) {
    const mask = maskOf(result);
    for (let n = 0; n < mask.length; n++) {
      if (!mask[n]) continue;
      sizes[mask[n]] += 1;
      profile[k] += 1;
      sum += result.foreground[n];
      inside += 1;
    }
  }
  const isWhole = item.results.size === item.slices;
  item.mean = inside ? sum / inside : null;
  const amount = (voxels) =>
    item.millilitres === null ? `${voxels.toLocaleString("en")} voxels` : `${numberText(voxels * item.millilitres, 2)} ml`;
  const rows = record.classes.slice(1).map((name, k) => [isMulti ? name : "Volume", amount(sizes[k + 1])]);
  if (isMulti) rows.push(["Together", amount(inside)]);
  list($("volume-measures"), isWhole ? rows : [["Slices done", `${item.results.size} of ${item.slices}`]]);
  $("whole").hidden = isWhole;
  drawProfile(profile, item.slice);
  if (!isWhole) return;
  const milliseconds = [...item.results.values()].reduce((total, result) => total + result.milliseconds, 0);
  item.row = volumeRow(item.name, item.slices, inside, item.millilitres === null ? null : inside * item.millilitres, item.mean, milliseconds);
  item.threshold = settings.threshold;
  item.state = "done";
  item.note = inside ? amount(inside) : "nothing found";
  updateButton(item);
}

function drawProfile(profile, slice) {
  const canvas = $("profile");
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  const context = canvas.getContext("2d");
  const [step, most] = [canvas.width / profile.length, Math.max(...profile, 1)];
  profile.forEach((size, k) => {
    context.fillStyle = k === slice ? "#fff" : "#ffb000";
    const tall = (size / most) * canvas.height;
    context.fillRect(k * step, canvas.height - tall, Math.max(step - 1, 1), tall);
  });
}

async function segmentVolume() {
  const item = current;
  if (item?.kind !== "volume" || item.isBusy) return;
  stopped = false;
  item.isBusy = true;
  $("progress").hidden = false;
  $("whole").disabled = true;
  const milestone = Math.max(1, Math.round(item.slices / 40));
  try {
    for (let k = 0; k < item.slices && !stopped; k++) {
      await resultFor(item, k);
      $("progress-bar").value = (k + 1) / item.slices;
      if (item === current && k % milestone === 0) showVolume(item);
    }
    if (item === current) showVolume(item);
    say(stopped ? "Cancelled" : `All ${item.slices} slices are segmented`);
  } catch (error) {
    fail(item, error);
  }
  item.isBusy = false;
  $("progress").hidden = true;
  $("whole").disabled = false;
}

// --- the list ---

function addButton(item) {
  const [line, button, small, text, name] = ["li", "button", "small", "span", "b"].map((kind) => document.createElement(kind));
  const thumbnail = document.createElement("canvas");
  thumbnail.width = thumbnail.height = 88;
  thumbnail.setAttribute("aria-hidden", "true");
  button.type = "button";
  button.title = name.textContent = item.name;
  text.append(name, small);
  button.append(thumbnail, text);
  button.addEventListener("click", () => choose(item));
  line.append(button);
  $("cases").append(line);
  Object.assign(item, { line, button, small, thumbnail });
  updateButton(item);
}

function updateButton(item) {
  item.small.textContent = item.note;
  item.line.className = item.state;
  if (item === current) item.button.setAttribute("aria-current", "true");
  else item.button.removeAttribute("aria-current");
}

function paintThumbnail(item, result) {
  item.isPainted = true;
  const side = Math.max(result.width, result.height);
  const [wide, tall] = [(88 * result.width) / side, (88 * result.height) / side];
  item.thumbnail.getContext("2d").drawImage(pictureCanvas(result), (88 - wide) / 2, (88 - tall) / 2, wide, tall);
}

function step(by) {
  const next = cases[cases.indexOf(current) + by];
  if (next) choose(next);
}

// --- downloads ---

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const stem = (name) => name.replace(/\.(nii\.gz|[^.]+)$/i, "") || name;

/** 0 and 255 for one class, the class numbers for more: as segdistill predict writes it. */
async function maskFile(item) {
  if (item.kind === "volume") {
    const masks = Array.from({ length: item.slices }, (_, k) => maskOf(item.results.get(k)));
    const { bytes } = await call("save", { id: item.id, file: item.file, masks });
    return [new Blob([bytes], { type: "application/gzip" }), `${stem(item.name)}_mask.nii.gz`];
  }
  const mask = maskOf(item.results.get(0));
  const factor = mask.some((number) => number > 1) ? 1 : 255;
  const bytes = await encodePng(mask.map((number) => number * factor), item.height, item.width);
  return [new Blob([bytes], { type: "image/png" }), `${stem(item.name)}_mask.png`];
}

async function saveMask() {
  if ($("save-mask").disabled) return;
  if (current.kind === "volume" && current.results.size < current.slices) await segmentVolume();
  if (current.kind === "volume" && current.results.size < current.slices) return;
  download(...(await maskFile(current)));
}

async function saveOverlay() {
  if ($("save-overlay").disabled) return;
  const place = current.kind === "volume" ? `_${current.slice + 1}` : "";
  download(await view.overlay(), `${stem(current.name)}${place}_overlay.png`);
}

async function saveTable() {
  const rows = [];
  for (const item of cases) {
    if (item.kind === "picture" && item.state !== "failed" && item.threshold !== settings.threshold) {
      say(`Measuring ${item.name} …`, true);
      await segmentPicture(item);
      if (item !== current) item.results.clear();
    }
    if (!item.row) continue;
    const ending = item.kind === "volume" ? "_mask.nii.gz" : "_mask.png";
    const row = { ...item.row, mask: `${stem(item.name)}${ending}`, model: record.sha256.slice(0, 12) };
    rows.push(item.threshold === record.threshold || isMulti ? row : { ...row, threshold: item.threshold });
  }
  if (!rows.length) {
    say("There is no result yet");
    return;
  }
  say(`${rows.length} of ${cases.length} images are in the table`);
  download(new Blob([tableText(rows)], { type: "text/csv" }), "predictions.csv");
}

// --- controls ---

function pixelBelow(place) {
  showScale(current);
  const result = current?.results.get(current.slice);
  if (!place || !result) {
    $("readout").textContent = "";
    return;
  }
  const at = place[1] * result.width + place[0];
  const levels = Array.from({ length: result.channels }, (_, c) => result.pixels[at * result.channels + c]);
  const level = new Set(levels).size === 1 ? levels[0] : levels.join(" ");
  $("readout").textContent = `x ${place[0]}  y ${place[1]} · level ${level} · probability ${numberText(result.foreground[at], 3)}`;
}

const view = new View($("view"), pixelBelow);

let isRefreshing = false;

function setThreshold(value) {
  settings.threshold = Number(Math.min(Math.max(value, 0.01), 0.99).toFixed(2));
  if (Math.abs(settings.threshold - record.threshold) < 0.005) settings.threshold = record.threshold;
  $("threshold").value = settings.threshold;
  $("threshold-value").textContent = numberText(settings.threshold, 2);
  $("threshold-reset").hidden = settings.threshold === record.threshold;
  if (isRefreshing) return;
  isRefreshing = true;
  requestAnimationFrame(() => {
    isRefreshing = false;
    refresh();
  });
}

function connect(id, name, toOption, toText) {
  const input = $(id);
  const apply = () => {
    view.set({ [name]: toOption(Number(input.value)) });
    $(`${id}-value`).textContent = toText(input.value);
  };
  input.addEventListener("input", apply);
  apply();
}

function toggle(id, name) {
  $(id).addEventListener("change", () => view.set({ [name]: $(id).checked }));
}

const flip = (id) => $(id).click();

const KEYS = {
  o: () => $("files").click(), m: () => flip("show-mask"), c: () => flip("show-outline"), x: () => flip("show-axis"),
  s: saveMask, v: saveOverlay, t: saveTable, a: segmentVolume, "+": () => view.zoom(1.25), "=": () => view.zoom(1.25),
  "-": () => view.zoom(0.8), 0: () => view.fit(), "?": () => $("help").showModal(), Escape: () => (stopped = true),
  "[": () => setThreshold(settings.threshold - 0.05), "]": () => setThreshold(settings.threshold + 0.05),
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => goTo(current.slice + 1),
  ArrowDown: () => goTo(current.slice - 1), PageUp: () => goTo(current.slice + 10), PageDown: () => goTo(current.slice - 10),
  h: () => view.set({ bare: true }),
};
const OF_IMAGES = new Set(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "ArrowLeft", "ArrowRight", "+", "=", "-", "0"]);

function onKey(event) {
  if ($("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isSlider = event.target.type === "range" && (key.startsWith("Arrow") || key.startsWith("Page"));
  if (!Object.hasOwn(KEYS, key) || isSlider || (OF_IMAGES.has(key) && !current)) return;
  event.preventDefault();
  KEYS[key]();
}

function listen() {
  for (const id of ["open", "open-too"]) $(id).addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = "";
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "h" && view.set({ bare: false }));
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
  let depth = 0;
  const setDepth = (value) => {
    depth = value;
    document.body.classList.toggle("is-dropping", depth > 0);
  };
  document.addEventListener("dragenter", () => setDepth(depth + 1));
  document.addEventListener("dragleave", () => setDepth(depth - 1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    setDepth(0);
    add(event.dataTransfer.files);
  });
  const clicks = {
    "save-mask": saveMask, "save-overlay": saveOverlay, "save-table": saveTable, whole: segmentVolume,
    cancel: () => (stopped = true), "help-button": () => $("help").showModal(), "zoom-in": () => view.zoom(1.25),
    "zoom-out": () => view.zoom(0.8), fit: () => view.fit(), "threshold-reset": () => setThreshold(record.threshold),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("slice").addEventListener("input", () => goTo(Number($("slice").value) - 1));
  $("threshold").addEventListener("input", () => setThreshold(Number($("threshold").value)));
  connect("opacity", "opacity", (value) => value / 100, (value) => `${value} %`);
  connect("brightness", "brightness", (value) => value, String);
  connect("contrast", "contrast", (value) => value, String);
  toggle("show-mask", "mask");
  toggle("show-outline", "outline");
  toggle("show-axis", "axis");
}

function describeModel() {
  const { size } = record.preprocess;
  const parameters = record.parameters ? `${numberText(record.parameters / 1e6, 2)} M parameters · ` : "";
  $("model-facts").textContent = `${parameters}${size[1]} × ${size[0]} input`;
  $("about").textContent =
    `${record.name}, made with segdistill ${record.version}. Model file SHA-256 ${record.sha256}. ` +
    `Finds: ${record.classes.slice(1).join(", ")}. Trained threshold ${record.threshold}.`;
  $("threshold-reset").textContent = `Back to ${numberText(record.threshold, 2)}, the model's own`;
}

describeModel();
makeClasses();
listen();
clearResult();
setThreshold(record.threshold);
const lack = lacking();
if (lack) stop(`${lack}: open the page in a current Chrome, Edge, Firefox or Safari.`);
const ready = lack ? new Promise(() => {}) : start();
ready.then(
  ({ milliseconds }) => {
    document.documentElement.dataset.ready = Math.round(milliseconds);
    $("lead").textContent = "Drop images here";
  },
  (error) => stop(`The network does not load: ${error.message}. Make the page again with segdistill export --web.`),
);
/** For tests: the worker's tasks, and the opened images. */
window.segdistill = { call, cases, ready };
