// One file of any kind that the page reads; its content decides, not its name.
import { checkBudget, Unreadable } from "./bytes.js";
import { decodeDicom, isDicom } from "./dicom.js";
import { decodeNifti, isNifti } from "./nifti.js";
import { decodePng, isPng } from "./png.js";

const MAX_BYTES = 2 ** 30;

/** A file (a Blob) as a picture or a volume. `intensity` is that of the model's preprocessing. */
export async function openFile(file, intensity = null) {
  if (!file.size) throw new Unreadable("is empty (0 bytes): restore the file");
  if (file.size > MAX_BYTES) throw new Unreadable("is larger than 1 GiB, more than the page reads: use segdistill predict");
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (isPng(bytes)) return { kind: "picture", spacing: null, ...(await decodePng(bytes, intensity)) };
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return fromCanvas(await decodeJpeg(bytes));
  if (isDicom(bytes)) return decodeDicom(bytes, intensity, decodeJpeg);
  if ((bytes[0] === 0x1f && bytes[1] === 0x8b) || isNifti(bytes)) return decodeNifti(bytes, intensity);
  throw new Unreadable("is not a PNG, JPEG, DICOM or NIfTI file: save it as one of these");
}

/** The browser's decoder, without management of colour; an orientation is applied. */
async function decodeJpeg(bytes) {
  let bitmap;
  try {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }), options);
  } catch {
    throw new Unreadable("cannot be read as JPEG: restore the file, or save it as PNG");
  }
  const { height, width } = bitmap;
  checkBudget(height, width);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { height, width, rgba: context.getImageData(0, 0, width, height).data };
}

function fromCanvas({ height, width, rgba }) {
  const pixels = new Uint8Array(3 * height * width);
  for (let k = 0; k < height * width; k++) {
    for (let c = 0; c < 3; c++) pixels[3 * k + c] = rgba[4 * k + c];
  }
  return { kind: "picture", spacing: null, height, width, channels: 3, pixels };
}
