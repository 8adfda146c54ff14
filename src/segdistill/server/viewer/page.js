// The page: opened images, what is shown of the chosen one, keys and downloads. The work is done in workers.
import { encodePng } from "./png.js";
import { measure } from "./measure.js";
import { Network, lacking } from "./network.js";
import { labelColumns, pictureRow, tableText, volumeRow } from "./table.js";
import { View, colourOf, pictureCanvas } from "./view.js";

const $ = (id) => document.getElementById(id);
const record = JSON.parse($("record").textContent);
/** Of `segdistill view`: {names, second: the record of another model or null, models: addresses, cases}; else {}. */
const served = JSON.parse($("served").textContent);
const networks = [record, served.second].filter(Boolean).map((each) => new Network(each));
const names = served.names ?? [record.name];
const isPair = networks.length === 2;
const isMulti = record.classes.length > 2;
const isOfVolumes = (network) => network.record.preprocess.dimensions === 3;
const KEPT_SLICES = 24; // of a volume, with their probabilities
/** `threshold` null: each model's own. */
const settings = { threshold: null, hidden: new Set() };
const cases = [];
let current = null;
let stopped = false;

const address = (path) => new URL(path, location.href).href;

async function start() {
  const [script, engine] = [$("worker").textContent, $("engine").textContent];
  const loads = networks.map((network, n) => {
    const model = served.models ? { url: address(served.models[n]) } : { model: $("model").textContent };
    return network.start(script, { engine, ...model }, stop);
  });
  for (const id of ["engine", "model", "worker"]) $(id).remove();
  const found = await Promise.all(loads);
  return { milliseconds: Math.max(...found.map(({ milliseconds }) => milliseconds)) };
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

/** A file that was opened here: each network gets it as it is. */
const ofFile = (file) => ({ file, name: file.name, kind: null, label: "" });

/** A case of `segdistill view`: each network has an address of its own, as each has its own range of grey levels. */
const ofServer = ({ name, kind, label }, number) => ({
  name, kind, label, urls: networks.map((_, n) => address(`case/${number}/${n}`)),
});

const fileOf = (item, n) => item.urls?.[n] ?? item.file;

/** A task of every network on an image. */
function callAll(task, item, request = {}) {
  return Promise.all(networks.map((network, n) => network.call(task, { id: item.id, file: fileOf(item, n), ...request })));
}

/** Adds images and segments the pictures one after another; a volume is segmented slice by slice as it is looked at. */
async function add(added) {
  if (!added.length) return;
  for (const item of added) {
    Object.assign(item, { state: "waiting", note: "waiting", slice: 0, results: new Map(), totals: [], rows: [] });
    item.id = `case-${cases.push(item)}`;
    addButton(item);
  }
  $("empty").hidden = true;
  $("table-bar").hidden = false;
  await ready;
  choose(added[0]);
  for (const item of added) {
    if (item.urls && item.kind === "volume") note(item, "open", "volume"); // opened when it is looked at
    else await described(item);
    if (item.state !== "failed" && item.kind === "picture" && !item.rows.length) await segmentPicture(item);
    if (item !== current) item.results.clear();
  }
}

function note(item, state, text) {
  Object.assign(item, { state, note: text });
  updateButton(item);
}

async function described(item) {
  item.opening ??= callAll("describe", item).then(
    ([found]) => {
      Object.assign(item, found, { slice: Math.floor(found.slices / 2) });
      note(item, "open", sizeText(found));
    },
    (error) => fail(item, error),
  );
  await item.opening;
}

function fail(item, error) {
  note(item, "failed", error.message);
  if (item === current) show();
}

/** The results of all networks for a picture or a slice. Pictures have slice 0; of a volume some are kept. */
async function resultsFor(item, slice = item.slice) {
  const found = item.results.get(slice) ?? (await callAll("segment", item, { slice }));
  item.results.delete(slice);
  item.results.set(slice, found);
  if (item.results.size > KEPT_SLICES) item.results.delete(item.results.keys().next().value);
  if (!item.isPainted) paintThumbnail(item, found[0]);
  return found;
}

async function segmentPicture(item) {
  try {
    const results = await resultsFor(item, 0);
    if (item === current) await show();
    else noteResults(item, results, measured(item, results));
  } catch (error) {
    fail(item, error);
  }
}

const masksOf = (results) => results.map((result, n) => maskOf(result, networks[n]));

/** Of each network its mask at the threshold, its size and the mean probability inside; and where two masks differ. */
function measured(item, results) {
  const parts = masksOf(results).map((mask, n) => ({
    mask, size: measure(mask, item.height, item.width, item.spacing), mean: meanInside(mask, results[n].foreground),
  }));
  return { parts, pair: isPair ? compared(parts[0].mask, parts[1].mask) : null };
}

/** Where two masks differ, how many pixels that are, and Dice over the pixels of the same class. */
function compared(first, second) {
  const differing = first.map((number, k) => (number === second[k] ? 0 : 1));
  let [both, total] = [0, 0];
  for (let k = 0; k < first.length; k++) {
    both += first[k] && first[k] === second[k] ? 1 : 0;
    total += (first[k] ? 1 : 0) + (second[k] ? 1 : 0);
  }
  return { differing, count: differing.reduce((sum, each) => sum + each, 0), both, total, dice: diceOf(both, total) };
}

const diceOf = (both, total) => (total ? (2 * both) / total : 1);

/** Keeps the rows of a picture for the table. */
function noteResults(item, results, { parts, pair }) {
  item.rows = parts.map(({ size, mean }, n) => ({
    ...pictureRow(item.name, size, item.spacing, mean, results[n].milliseconds),
    ...labelColumns(networks[n].record.labels, results[n].chances, size.box),
    ...(pair && { dice_between: Number(pair.dice.toFixed(6)) }),
  }));
  noteDone(item, pair, parts[0].size.area_px ? areaText(parts[0].size) : "nothing found");
}

function noteDone(item, pair, text) {
  item.threshold = settings.threshold;
  item.agreement = pair?.dice ?? null;
  note(item, "done", pair ? `Dice ${numberText(pair.dice, 3)}` : text);
}

/** Class numbers of a network's result at the threshold. */
function maskOf({ foreground, labels }, network) {
  if (labels) return labels;
  const limit = Math.fround(network.threshold(settings.threshold));
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
    for (const view of views) view.show(null);
    clearResult();
    return;
  }
  if (!item.height) return; // not opened yet
  if (isVolume) showSlices(item);
  const slice = item.slice;
  try {
    const results = await resultsFor(item, slice);
    if (item !== current || slice !== item.slice) return;
    arrange(item);
    views.forEach((view, n) => view.image !== results[n] && view.show(results[n]));
    if (results.every(({ foreground }) => foreground)) showResults(item, results);
    else showUnsegmented(item);
  } catch (error) {
    fail(item, error);
  }
}

/** Puts two views below one another where the image is then larger than with the views side by side. */
function arrange({ width, height }) {
  const { clientWidth: wide, clientHeight: tall } = $("panes");
  const [beside, below] = [Math.min(wide / 2 / width, tall / height), Math.min(wide / width, tall / 2 / height)];
  $("panes").classList.toggle("stacked", below > beside);
}

function clearResult(text = "No image is shown") {
  for (const id of ["caption", "timing", "readout", "calibration"]) $(id).textContent = "";
  $("measures").textContent = text;
  $("label-section").hidden = true;
  $("scale").hidden = true;
  $("save-mask").disabled = $("save-overlay").disabled = true;
  for (const { canvas } of views) canvas.setAttribute("aria-label", text);
}

const captionOf = (item, place) => `${item.name}\n${item.width} × ${item.height}${place ? ` · ${place.slice(2)}` : ""}`;
const placeOf = (item) => (item.kind === "volume" ? `, slice ${item.slice + 1} of ${item.slices}` : "");

/** A slice of a volume that a network of volumes has not segmented yet. */
function showUnsegmented(item) {
  clearResult("Not segmented yet: Segment the volume");
  $("caption").textContent = captionOf(item, placeOf(item));
  $("save-mask").disabled = false; // it segments first
  for (const { canvas } of views) canvas.setAttribute("aria-label", `${item.name}${placeOf(item)}: not segmented yet`);
  showScale(item);
}

function showResults(item, results) {
  const found = measured(item, results);
  if (item.kind === "picture") noteResults(item, results, found);
  else noteSlice(item, item.slice, results, found.parts.map(({ mask }) => mask));
  const place = placeOf(item);
  found.parts.forEach(({ mask, size }, n) => {
    views[n].setMask(mask, settings.hidden, size.axis, found.pair?.differing);
    const text = size.area_px ? `segmented, ${areaText(size)}` : "nothing found";
    views[n].canvas.setAttribute("aria-label", `${item.name}${place}${isPair ? `, ${names[n]}` : ""}: ${text}`);
  });
  showMeasures(item, found);
  showLabels(results);
  showClasses(item, found.parts);
  $("caption").textContent = captionOf(item, place);
  $("timing").textContent = results.map(({ milliseconds }) => `${Math.round(milliseconds)} ms`).join(" · ");
  $("save-mask").disabled = $("save-overlay").disabled = false;
}

// --- measurements ---

const numberText = (value, digits = 1) =>
  value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

function areaText(size, isReal = size.area_mm2 !== null) {
  return !isReal ? `${size.area_px.toLocaleString("en")} px` : `${numberText(size.area_mm2)} mm²`;
}

function sizeText({ width, height, slices, kind }) {
  return kind === "volume" ? `${width} × ${height}, ${slices} slices` : `${width} × ${height}`;
}

/** A table of values: rows are [name, text for each network, class]. */
function fill(target, rows) {
  const [table, head, body] = ["table", "thead", "tbody"].map((kind) => document.createElement(kind));
  const cell = (kind, text, more = {}) => Object.assign(document.createElement(kind), { textContent: text, ...more });
  table.className = "values";
  const line = document.createElement("tr");
  line.append(document.createElement("td"), ...names.map((name, n) => cell("th", n + 1, { scope: "col", title: name })));
  if (isPair) head.append(line);
  for (const [name, texts, kind = ""] of rows) {
    const row = document.createElement("tr");
    row.className = kind;
    const cells = texts.map((text) => cell("td", text));
    if (texts.length < networks.length) cells.at(-1).colSpan = networks.length;
    row.append(cell("th", name, { scope: "row" }), ...cells);
    body.append(row);
  }
  table.append(head, body);
  target.replaceChildren(table);
}

function showMeasures(item, { parts, pair }) {
  const isReal = parts.every(({ size }) => size.area_mm2 !== null);
  const of = (text) => parts.map(({ size, mean }) => (size.area_px ? text(size, mean) : "–"));
  const length = (px, mm) => (isReal ? `${numberText(mm)} mm` : `${numberText(px)} px`);
  const rows = [["Area", parts.map(({ size }) => (size.area_px ? areaText(size, isReal) : "nothing found")), "big"]];
  if (parts.some(({ size }) => size.area_px)) {
    rows.push(
      ["Long axis", of((size) => length(size.long_px, size.long_mm))],
      ["Short axis", of((size) => length(size.short_px, size.short_mm))],
      ["Mean probability", of((_, mean) => numberText(mean, 3))],
    );
  }
  if (pair) {
    rows.push(["Dice of both", [numberText(pair.dice, 3)]], ["Differing", [`${pair.count.toLocaleString("en")} px`]]);
  }
  fill($("measures"), rows);
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
  const perMillimetre = views[0].scale / views[0].ratio / item.spacing.column;
  const length = [1, 2, 5, 10, 20, 50, 100, 200].filter((mm) => mm * perMillimetre <= 170).at(-1) ?? 1;
  $("scale").firstElementChild.textContent = `${length} mm`;
  $("scale").lastElementChild.style.width = `${length * perMillimetre}px`;
}

function showLabels(results) {
  const lines = results.flatMap(({ chances }, n) => {
    const best = Math.max(...chances);
    return chances.map((chance, k) => {
      const name = networks[n].record.labels[k];
      return labelLine(isPair ? `${n + 1}: ${name}` : name, chance, chance === best);
    });
  });
  $("label-section").hidden = !lines.length;
  $("labels").replaceChildren(...lines);
}

function labelLine(name, chance, isFirst) {
  const [line, text, meter] = ["li", "div", "meter"].map((kind) => document.createElement(kind));
  const [left, right] = [document.createElement("span"), document.createElement("span")];
  left.textContent = name;
  right.textContent = numberText(chance, 3);
  text.append(left, right);
  text.className = isFirst ? "first" : "";
  meter.value = chance;
  meter.setAttribute("aria-label", `${name}: probability ${numberText(chance, 3)}`);
  line.append(text, meter);
  return line;
}

/** How many pixels of a mask each class has. */
function countsOf(mask) {
  const sizes = new Array(record.classes.length).fill(0);
  for (const number of mask) sizes[number] += 1;
  return sizes;
}

function showClasses(item, parts) {
  if (!isMulti) return;
  const sizes = parts.map(({ mask }) => countsOf(mask));
  for (const small of $("classes").querySelectorAll("small")) {
    small.textContent = sizes
      .map((each) => each[Number(small.dataset.number)])
      .map((pixels) => {
        if (!pixels) return "–";
        return item.spacing ? `${numberText(pixels * item.spacing.row * item.spacing.column)} mm²` : `${pixels} px`;
      })
      .join(" / ");
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

let remeasuring = 0;

/** Draws the chosen result again, with another threshold or other classes. */
function refresh() {
  const results = current?.results.get(current.slice);
  if (!results?.every(({ foreground }) => foreground)) return;
  showResults(current, results);
  clearTimeout(remeasuring);
  if (!current.wasWhole || current.isWhole) return;
  const item = current; // its totals are of another threshold
  remeasuring = setTimeout(() => item === current && segmentVolume(), 300);
}

// --- volumes ---

function showSlices(item) {
  Object.assign($("slice"), { max: item.slices, value: item.slice + 1 });
  $("slice-number").textContent = `${item.slice + 1} of ${item.slices}`;
  $("slice").setAttribute("aria-valuetext", `slice ${item.slice + 1} of ${item.slices}`);
  showVolume(item);
}

function goTo(slice) {
  if (current?.kind !== "volume" || !current.slices) return;
  current.slice = Math.min(Math.max(slice, 0), current.slices - 1);
  show();
}

/** Keeps how much of each class a slice holds, for the totals. They are of one threshold. */
function noteSlice(item, slice, results, masks) {
  if (item.totalsAt !== settings.threshold) Object.assign(item, { totals: [], totalsAt: settings.threshold });
  const { both, total, count } = isPair ? compared(...masks) : {};
  item.totals[slice] = {
    both, total, count,
    parts: masks.map((mask, n) => {
      const sizes = countsOf(mask);
      const inside = mask.length - sizes[0];
      const sum = inside ? meanInside(mask, results[n].foreground) * inside : 0;
      return { sizes, inside, sum, milliseconds: results[n].milliseconds };
    }),
  };
  if (item === current) showVolume(item);
}

const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);

/** Totals over the slices that are segmented, and their profile above the slider. */
function showVolume(item) {
  const done = item.totals.filter(Boolean);
  item.isWhole = done.length === item.slices;
  const totals = networks.map((_, n) => {
    const parts = done.map(({ parts: each }) => each[n]);
    const inside = sumOf(parts.map((part) => part.inside));
    const own = item.windows?.[n] ?? 0;
    return {
      inside, sizes: record.classes.map((_, c) => sumOf(parts.map(({ sizes }) => sizes[c]))),
      mean: inside ? sumOf(parts.map(({ sum }) => sum)) / inside : null,
      milliseconds: own + sumOf(parts.map(({ milliseconds }) => milliseconds)),
    };
  });
  const [both, total] = [sumOf(done.map((each) => each.both)), sumOf(done.map((each) => each.total))];
  const pair = isPair ? { dice: diceOf(both, total) } : null;
  const amount = (voxels) =>
    item.millilitres === null ? `${voxels.toLocaleString("en")} voxels` : `${numberText(voxels * item.millilitres, 2)} ml`;
  const rows = record.classes.slice(1).map((name, k) => [
    isMulti ? name : "Volume", totals.map(({ sizes }) => amount(sizes[k + 1])),
  ]);
  if (isMulti) rows.push(["Together", totals.map(({ inside }) => amount(inside))]);
  if (pair) rows.push(["Dice of both", [numberText(pair.dice, 3)]]);
  fill($("volume-measures"), item.isWhole ? rows : [["Slices done", [`${done.length} of ${item.slices}`]]]);
  $("whole").hidden = item.isWhole;
  drawProfile(Array.from({ length: item.slices }, (_, k) => profileOf(item.totals[k])), item.slice);
  item.wasWhole ||= item.isWhole;
  if (!item.isWhole) return;
  item.rows = totals.map(({ inside, mean, milliseconds }) => ({
    ...volumeRow(item.name, item.slices, inside, item.millilitres === null ? null : inside * item.millilitres, mean, milliseconds),
    ...(pair && { dice_between: Number(pair.dice.toFixed(6)) }),
  }));
  noteDone(item, pair, totals[0].inside ? amount(totals[0].inside) : "nothing found");
}

/** Foreground of a slice, or with two models the voxels that differ. */
const profileOf = (slice) => (isPair ? slice?.count : slice?.parts[0].inside) ?? 0;

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

function showProgress(text, done, total) {
  $("progress-text").textContent = text;
  $("progress-bar").value = done / total;
}

function cancel() {
  stopped = true;
  for (const network of networks) network.cancel();
}

/** Segments all of the chosen volume. Gives the masks of each network by slice if `keeps`; null where it was cancelled. */
async function segmentVolume(keeps = false) {
  const item = current;
  if (item?.kind !== "volume" || !item.slices || item.isBusy) return null;
  stopped = false;
  item.isBusy = true;
  $("progress").hidden = false;
  $("whole").disabled = true;
  let kept = null;
  try {
    await inWindows(item);
    let at;
    do {
      at = settings.threshold;
      kept = await overSlices(item, keeps);
    } while (!stopped && at !== settings.threshold); // it was moved meanwhile
    if (stopped) say("Cancelled");
  } catch (error) {
    fail(item, error);
  }
  item.isBusy = false;
  $("progress").hidden = true;
  $("whole").disabled = false;
  if (item === current) show();
  return stopped ? null : kept;
}

/** Networks of volumes see the whole volume in windows first. */
async function inWindows(item) {
  item.windows ??= [];
  for (const [n, network] of networks.entries()) {
    if (!isOfVolumes(network) || stopped) continue;
    const onProgress = (done, total) => showProgress(`${isPair ? `${n + 1}: ` : ""}window ${done} of ${total}`, done, total);
    showProgress("Resampling …", 0, 1);
    const { isDone, milliseconds } = await network.call("whole", { id: item.id, file: fileOf(item, n) }, onProgress);
    if (!isDone) return;
    item.windows[n] = milliseconds;
    item.results.clear();
  }
}

async function overSlices(item, keeps) {
  const kept = networks.map(() => []);
  for (let k = 0; k < item.slices && !stopped; k++) {
    const results = await resultsFor(item, k);
    const masks = masksOf(results);
    noteSlice(item, k, results, masks);
    if (keeps) masks.forEach((mask, n) => kept[n].push(mask));
    showProgress(`slice ${k + 1} of ${item.slices}`, k + 1, item.slices);
  }
  return kept;
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
  item.small.textContent = [item.label, item.note].filter(Boolean).join(" · ");
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

/** Puts the images on which two models agree least first; those that are not measured yet last. */
function sort() {
  if (!isPair) return;
  const known = (item) => item.agreement ?? 2;
  cases.sort((a, b) => known(a) - known(b));
  $("cases").append(...cases.map(({ line }) => line));
  if (cases.length) choose(cases[0]);
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

/** With two models the files of the second one have a name of their own. */
const ending = (n) => (n ? `_${n + 1}` : "");

/** 0 and 255 for one class, the class numbers for more: as segdistill predict writes it. */
async function maskFiles(item) {
  if (item.kind === "volume") {
    const kept = (await segmentVolume(true)) ?? [];
    return Promise.all(kept.map(async (masks, n) => {
      const { bytes } = await networks[n].call("save", { id: item.id, file: fileOf(item, n), masks });
      return [new Blob([bytes], { type: "application/gzip" }), `${stem(item.name)}_mask${ending(n)}.nii.gz`];
    }));
  }
  return Promise.all(masksOf(item.results.get(0)).map(async (mask, n) => {
    const factor = mask.some((number) => number > 1) ? 1 : 255;
    const bytes = await encodePng(mask.map((number) => number * factor), item.height, item.width);
    return [new Blob([bytes], { type: "image/png" }), `${stem(item.name)}_mask${ending(n)}.png`];
  }));
}

async function saveMask() {
  if ($("save-mask").disabled) return;
  for (const file of await maskFiles(current)) download(...file);
}

async function saveOverlay() {
  if ($("save-overlay").disabled) return;
  const place = current.kind === "volume" ? `_${current.slice + 1}` : "";
  for (const [n, view] of views.entries()) download(await view.overlay(), `${stem(current.name)}${place}_overlay${ending(n)}.png`);
}

async function saveTable() {
  const rows = [];
  for (const item of cases) {
    if (item.kind === "picture" && item.state !== "failed" && item.threshold !== settings.threshold) {
      say(`Measuring ${item.name} …`, true);
      await segmentPicture(item);
      if (item !== current) item.results.clear();
    }
    const kind = item.kind === "volume" ? "nii.gz" : "png";
    item.rows.forEach((row, n) => {
      const model = networks[n].record.sha256.slice(0, 12);
      const chosen = item.threshold === null || isMulti ? {} : { threshold: item.threshold };
      rows.push({ ...row, mask: `${stem(item.name)}_mask${ending(n)}.${kind}`, model, ...chosen });
    });
  }
  if (!rows.length) {
    say("There is no result yet");
    return;
  }
  say(`${rows.length / networks.length} of ${cases.length} images are in the table`);
  download(new Blob([tableText(rows)], { type: "text/csv" }), "predictions.csv");
}

// --- controls ---

function pixelBelow(place) {
  showScale(current);
  const results = current?.results.get(current.slice);
  if (!place || !results) {
    $("readout").textContent = "";
    return;
  }
  const { width, channels, pixels } = results[0];
  const at = place[1] * width + place[0];
  const levels = Array.from({ length: channels }, (_, c) => pixels[at * channels + c]);
  const level = new Set(levels).size === 1 ? levels[0] : levels.join(" ");
  const chances = results.flatMap(({ foreground }) => (foreground ? [numberText(foreground[at], 3)] : []));
  const chance = chances.length ? ` · probability ${chances.join(" / ")}` : "";
  $("readout").textContent = `x ${place[0]}  y ${place[1]} · level ${level}${chance}`;
}

const views = ["view", "view-2"].slice(0, networks.length).map((id) => new View($(id), pixelBelow));
for (const view of views) view.peers = views.filter((other) => other !== view);

let isRefreshing = false;

/** Sets one threshold for all networks, or null: each its own. */
function setThreshold(value) {
  const isOwn = value === null || (!isPair && Math.abs(value - record.threshold) < 0.005);
  settings.threshold = isOwn ? null : Number(Math.min(Math.max(value, 0.01), 0.99).toFixed(2));
  const shown = settings.threshold ?? record.threshold;
  $("threshold").value = shown;
  $("threshold-value").textContent =
    isOwn && isPair ? networks.map((network) => numberText(network.record.threshold, 2)).join(" / ") : numberText(shown, 2);
  $("threshold-reset").hidden = isOwn;
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
    for (const view of views) view.set({ [name]: toOption(Number(input.value)) });
    $(`${id}-value`).textContent = toText(input.value);
  };
  input.addEventListener("input", apply);
  apply();
}

function toggle(id, name) {
  $(id).addEventListener("change", () => views.forEach((view) => view.set({ [name]: $(id).checked })));
}

const flip = (id) => $(id).click();

const fit = () => views.forEach((view) => view.fit());
const zoom = (factor) => views[0].zoom(factor);
const setBare = (bare) => views.forEach((view) => view.set({ bare }));
const moveThreshold = (by) => setThreshold((settings.threshold ?? record.threshold) + by);

const KEYS = {
  o: () => $("files").click(), m: () => flip("show-mask"), c: () => flip("show-outline"), x: () => flip("show-axis"),
  d: () => flip("show-differing"), l: sort, s: saveMask, v: saveOverlay, t: saveTable, a: () => segmentVolume(),
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: fit,
  "?": () => $("help").showModal(), Escape: cancel, "[": () => moveThreshold(-0.05), "]": () => moveThreshold(0.05),
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => goTo(current.slice + 1),
  ArrowDown: () => goTo(current.slice - 1), PageUp: () => goTo(current.slice + 10), PageDown: () => goTo(current.slice - 10),
  h: () => setBare(true),
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
    add([...$("files").files].map(ofFile));
    $("files").value = "";
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "h" && setBare(false));
  document.addEventListener("paste", (event) => add([...event.clipboardData.files].map(ofFile)));
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
    add([...event.dataTransfer.files].map(ofFile));
  });
  const clicks = {
    "save-mask": saveMask, "save-overlay": saveOverlay, "save-table": saveTable, whole: () => segmentVolume(), cancel, sort,
    "help-button": () => $("help").showModal(), "zoom-in": () => zoom(1.25), "zoom-out": () => zoom(0.8), fit,
    "threshold-reset": () => setThreshold(null),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  window.addEventListener("resize", () => current?.height && arrange(current));
  $("slice").addEventListener("input", () => goTo(Number($("slice").value) - 1));
  $("threshold").addEventListener("input", () => setThreshold(Number($("threshold").value)));
  connect("opacity", "opacity", (value) => value / 100, (value) => `${value} %`);
  connect("brightness", "brightness", (value) => value, String);
  connect("contrast", "contrast", (value) => value, String);
  toggle("show-mask", "mask");
  toggle("show-outline", "outline");
  toggle("show-axis", "axis");
  toggle("show-differing", "differing");
}

function describeModels() {
  const million = (each) => (each.parameters ? `${numberText(each.parameters / 1e6, 2)} M parameters` : "");
  const size = ({ preprocess }) => `${preprocess.size.slice().reverse().join(" × ")} ${preprocess.dimensions === 3 ? "windows" : "input"}`;
  const facts = networks.map(({ record: each }) => [million(each), size(each)].filter(Boolean).join(" · "));
  $("model-facts").textContent = isPair ? "" : facts[0];
  $("about").textContent = networks
    .map(({ record: each }, n) =>
      `${isPair ? `${names[n]}: ${facts[n]}. ` : ""}${each.name}, made with segdistill ${each.version}. ` +
      `Model file SHA-256 ${each.sha256}. Finds: ${each.classes.slice(1).join(", ")}. Trained threshold ${each.threshold}.`)
    .join(" ");
  $("threshold-reset").textContent = isPair
    ? "Back to the models' own" : `Back to ${numberText(record.threshold, 2)}, the model's own`;
  if (!isPair) return;
  document.body.classList.add("compared");
  document.title = `${names.join(" and ")} · segdistill`;
  document.querySelector(".title").textContent = names.join(" and ");
  names.forEach((name, n) => {
    $(`name-${n + 1}`).textContent = `${n + 1} · ${name}`;
    $(`name-${n + 1}`).hidden = false;
  });
  $("pane-2").hidden = $("sort").hidden = $("differing-field").hidden = false;
}

describeModels();
makeClasses();
listen();
clearResult();
setThreshold(null);
const lack = lacking();
if (lack) stop(lack);
const ready = lack ? new Promise(() => {}) : start();
ready.then(
  ({ milliseconds }) => {
    document.documentElement.dataset.ready = Math.round(milliseconds);
    $("lead").textContent = "Drop images here";
  },
  (error) => stop(`The network does not load: ${error.message}. Make the page again with segdistill export --web.`),
);
add((served.cases ?? []).map(ofServer));
/** For tests: the worker's tasks, and the opened images. */
window.segdistill = { call: (task, request, n = 0) => networks[n].call(task, request), cases, fileOf, ready };
