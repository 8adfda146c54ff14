// Bytes in and out: compression, base64, checksums, and the one error that a user sees.

/** A file that cannot be read; its text is the reason and what to do. */
export class Unreadable extends Error {}

/** Largest picture in pixels, and largest volume in voxels, that is decoded. */
export const MAX_PIXELS = 2 ** 26;
export const MAX_VOXELS = 2 ** 29;

/** Inflates `bytes` ("deflate" is zlib, "gzip") to at most `most` bytes. */
export async function inflate(bytes, format, most) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  const parts = [];
  let total = 0;
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch {
      throw new Unreadable("holds damaged compressed data: restore the file");
    }
    if (step.done) break;
    total += step.value.length;
    if (total > most) {
      reader.cancel().catch(() => {});
      throw new Unreadable("holds more data than its header claims: restore the file");
    }
    parts.push(step.value);
  }
  return joined(parts, total);
}

/** Compresses bytes ("deflate" is zlib, "gzip"). */
export async function deflate(bytes, format) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Parts as one array of `total` bytes. */
export function joined(parts, total = parts.reduce((sum, part) => sum + part.length, 0)) {
  const all = new Uint8Array(total);
  let place = 0;
  for (const part of parts) {
    all.set(part, place);
    place += part.length;
  }
  return all;
}

/** The bytes of base64 text. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** CRC-32 as PNG and gzip have it. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (let k = 0; k < bytes.length; k++) crc = CRC_TABLE[(crc ^ bytes[k]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Refuses a picture over the budget, before anything of its size is made. */
export function checkBudget(height, width) {
  if (height < 1 || width < 1) throw new Unreadable(`claims ${height} x ${width} pixels: restore the file`);
  if (height * width > MAX_PIXELS) {
    throw new Unreadable(`claims ${height} x ${width} pixels, more than the ${MAX_PIXELS} that are read`);
  }
}
