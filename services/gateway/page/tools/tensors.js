/** Latents: tensors as they travel, and the draws and walks that the page makes itself. */

/**
 * @typedef {{data: string, shape: number[]}} WireLatents little-endian float32 in base64
 * @typedef {{values: Float32Array, shape: number[]}} Tensor
 */

/** @param {WireLatents} latents @returns {Tensor} */
export function decoded(latents) {
  const bytes = Uint8Array.from(atob(latents.data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float32Array(bytes.length / 4);
  for (let index = 0; index < values.length; index += 1) {
    values[index] = view.getFloat32(index * 4, true);
  }
  return { values, shape: latents.shape };
}

/** @param {Tensor} tensor @returns {WireLatents} */
export function encoded(tensor) {
  const view = new DataView(new ArrayBuffer(tensor.values.length * 4));
  tensor.values.forEach((value, index) => view.setFloat32(index * 4, value, true));
  let text = "";
  for (const byte of new Uint8Array(view.buffer)) text += String.fromCharCode(byte);
  return { data: btoa(text), shape: tensor.shape };
}

/**
 * Standard normal values from a seed: mulberry32, then Box and Muller. These are this page's own
 * draws; the service draws others from the same seed.
 * @param {number} seed @param {number[]} shape @returns {Tensor}
 */
export function drawn(seed, shape) {
  const uniform = mulberry32(seed);
  const count = shape.reduce((product, side) => product * side, 1);
  const values = Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
  return { values, shape };
}

/**
 * @param {Tensor} tensor @param {Map<number, number>} changes new values by place
 * @returns {Tensor} a copy
 */
export function changed(tensor, changes) {
  const values = tensor.values.slice();
  for (const [place, value] of changes) values[place] = value;
  return { values, shape: tensor.shape };
}

/** @param {Tensor} tensor @returns {number[]} places, those far from zero first */
export function byMagnitude(tensor) {
  const places = [...tensor.values.keys()];
  return places.sort((a, b) => Math.abs(tensor.values[b]) - Math.abs(tensor.values[a]) || a - b);
}

function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Whether encode gives latents that generate takes again; some models encode codes or a score alone. */
export function encodesLatents(model) {
  const gives = model.operations.encode?.["x-gives"] ?? ["latents"];
  return model.tasks.includes("encode") && gives.includes("latents");
}
