/**
 * A mask as the model sees it: one value per pixel of the model, 1 where the image is made anew.
 * Every change is one step of undo.
 */

const HISTORY = 100;

export class Bitmap {
  /**
   * @param {number} width pixels
   * @param {number} height pixels
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.cells = new Uint8Array(width * height);
    /** @type {Uint8Array[]} */
    this.past = [];
    /** @type {Uint8Array[]} */
    this.future = [];
  }

  /** Begin a change: what follows, up to the next `begin`, is undone together. */
  begin() {
    this.past.push(this.cells.slice());
    if (this.past.length > HISTORY) this.past.shift();
    this.future = [];
  }

  /** @returns {boolean} whether there was anything to undo */
  undo() {
    return this.#swap(this.past, this.future);
  }

  /** @returns {boolean} whether there was anything to do again */
  redo() {
    return this.#swap(this.future, this.past);
  }

  /** @returns {number} marked pixels */
  get count() {
    return this.cells.reduce((sum, cell) => sum + cell, 0);
  }

  /** @param {number} x @param {number} y @returns {boolean} whether a pixel is marked */
  has(x, y) {
    return this.cells[y * this.width + x] === 1;
  }

  /**
   * A disc around a point. A brush of size 1 is one pixel.
   * @param {number} x of the centre, in pixels from the left edge; may lie between pixels
   * @param {number} y from the top
   * @param {number} size diameter in pixels
   * @param {0|1} value
   */
  stamp(x, y, size, value) {
    const radius = size / 2;
    const [left, right] = [Math.floor(x - radius), Math.ceil(x + radius)];
    const [top, bottom] = [Math.floor(y - radius), Math.ceil(y + radius)];
    for (let row = top; row <= bottom; row += 1) {
      for (let column = left; column <= right; column += 1) {
        const distance = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        if (distance <= Math.max(radius, 0.5)) this.#set(column, row, value);
      }
    }
    this.#set(Math.floor(x), Math.floor(y), value);
  }

  /**
   * Discs along a line, so close that no gap is left between them.
   * @param {{x: number, y: number}} from @param {{x: number, y: number}} to
   * @param {number} size @param {0|1} value
   */
  stroke(from, to, size, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) * 2));
    for (let step = 0; step <= steps; step += 1) {
      const share = step / steps;
      this.stamp(from.x + (to.x - from.x) * share, from.y + (to.y - from.y) * share, size, value);
    }
  }

  /** @param {number} left @param {number} top @param {number} width @param {number} height */
  rectangle(left, top, width, height, value = 1) {
    for (let row = top; row < top + height; row += 1) {
      for (let column = left; column < left + width; column += 1) this.#set(column, row, value);
    }
  }

  invert() {
    this.cells = this.cells.map((cell) => 1 - cell);
  }

  clear() {
    this.cells.fill(0);
  }

  /** @returns {Uint8ClampedArray} opaque RGBA pixels, white where it is marked: what the API takes */
  pixels() {
    const found = new Uint8ClampedArray(this.cells.length * 4);
    this.cells.forEach((cell, index) => {
      found.set([cell * 255, cell * 255, cell * 255, 255], index * 4);
    });
    return found;
  }

  #set(x, y, value) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    this.cells[y * this.width + x] = value;
  }

  #swap(from, to) {
    const cells = from.pop();
    if (!cells) return false;
    to.push(this.cells);
    this.cells = cells;
    return true;
  }
}
