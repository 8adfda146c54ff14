// The table of results: the columns and roundings of segdistill's predictions.csv.

const COLUMNS = [
  "file", "mask", "area_px", "long_px", "short_px", "area_mm2", "long_mm", "short_mm", "spacing_source",
  "mean_probability", "seconds", "model",
];
const VOLUME_COLUMNS = ["slices", "voxels", "volume_ml"];
const COMPUTED = /^[\s]*[=+\-@\t\r]/;

const rounded = (value, digits = 3) => (value === null ? null : Number(value.toFixed(digits)));

/** One row of a picture. */
export function pictureRow(name, size, spacing, mean, milliseconds) {
  const isKnown = size.area_mm2 !== null;
  return {
    file: name, area_px: size.area_px, long_px: rounded(size.long_px), short_px: rounded(size.short_px),
    area_mm2: rounded(size.area_mm2), long_mm: rounded(size.long_mm), short_mm: rounded(size.short_mm),
    spacing_source: isKnown ? spacing.source : null, mean_probability: rounded(mean, 6),
    seconds: rounded(milliseconds / 1000, 4),
  };
}

/** `class`, `p_NAME` of each class and `box`, of a network that classifies. */
export function labelColumns(labels, chances, box) {
  if (!labels.length) return {};
  const first = labels[chances.indexOf(Math.max(...chances))];
  const each = Object.fromEntries(labels.map((name, k) => [`p_${name}`, rounded(chances[k], 6)]));
  return { class: first, ...each, box: box ? box.join(" ") : null };
}

/** One row of a volume. */
export function volumeRow(name, slices, voxels, millilitres, mean, milliseconds) {
  return {
    file: name, slices, voxels, volume_ml: rounded(millilitres), spacing_source: millilitres === null ? null : "header",
    mean_probability: rounded(mean, 6), seconds: rounded(milliseconds / 1000, 4),
  };
}

/** Rows as CSV; what is not known is an empty cell. */
export function tableText(rows) {
  const names = new Set(rows.flatMap((row) => Object.keys(row)));
  const known = new Set([...COLUMNS, ...VOLUME_COLUMNS]);
  const columns = [
    ...COLUMNS, ...(names.has("voxels") ? VOLUME_COLUMNS : []), ...[...names].filter((name) => !known.has(name)),
  ];
  return [columns, ...rows.map((row) => columns.map((name) => row[name] ?? ""))]
    .map((cells) => `${cells.map(cellOf).join(",")}\n`)
    .join("");
}

/** A cell that is one line, and none that a spreadsheet would compute. */
function cellOf(value) {
  if (typeof value === "number") return String(value);
  const line = value.replace(/[\u0000-\u001f\u007f]/g, " ");
  const text = COMPUTED.test(line) ? `'${line}` : line;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
