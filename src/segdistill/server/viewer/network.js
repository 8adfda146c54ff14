// A network in a worker of its own, and what this browser lacks for it.

const CURRENT = "Use a current Chrome, Edge, Firefox or Safari.";

/** A network and its worker; `record` is what the page knows of its model file. */
export class Network {
  constructor(record) {
    this.record = record;
    this.waiting = new Map();
    this.count = 0;
    this.worker = null;
  }

  /** The probability above which a pixel is foreground, unless one is chosen for all networks. */
  threshold(chosen) {
    return chosen ?? this.record.threshold;
  }

  /** Starts the worker with its script and loads the network; `onError` is given a sentence where it does not start. */
  start(script, request, onError) {
    this.worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    this.worker.onmessage = ({ data }) => this.received(data);
    this.worker.onerror = (event) => onError(`The page's worker did not start (${event.message ?? "no reason"}). ${CURRENT}`);
    return this.call("load", { ...request, record: this.record });
  }

  /** A task of the worker; `onProgress` is given (done, total). */
  call(task, request, onProgress = () => {}) {
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.count, { resolve, reject, onProgress });
      this.worker.postMessage({ number: this.count, task, request });
    });
  }

  received({ number, result, reason, progress }) {
    const { resolve, reject, onProgress } = this.waiting.get(number);
    if (progress) {
      onProgress(...progress);
      return;
    }
    this.waiting.delete(number);
    if (reason === undefined) resolve(result);
    else reject(new Error(reason));
  }

  /** Ends the volume that is being segmented. */
  cancel() {
    this.worker?.postMessage({ task: "cancel" });
  }
}

/** What the browser lacks, as one sentence; "" where it has all. */
export function lacking() {
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  if (typeof WebAssembly === "undefined") return `This browser has no WebAssembly. ${CURRENT}`;
  if (!WebAssembly.validate(new Uint8Array(simd))) return `This browser has WebAssembly without SIMD. ${CURRENT}`;
  if (typeof DecompressionStream === "undefined") return `This browser cannot inflate data (DecompressionStream). ${CURRENT}`;
  return "";
}
