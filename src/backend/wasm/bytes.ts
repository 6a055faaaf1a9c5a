/** A growing array of bytes with the number formats of WebAssembly's binary format. It knows no instructions. */

const encoder = new TextEncoder();

export class Bytes {
  #data = new Uint8Array(1024);
  #view = new DataView(this.#data.buffer);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Forgets what was written. */
  clear(): void {
    this.#length = 0;
  }

  /** A copy of what was written. */
  done(): Uint8Array<ArrayBuffer> {
    return this.#data.slice(0, this.#length);
  }

  byte(value: number): void {
    if (this.#length === this.#data.length) this.#grow(1);
    this.#data[this.#length++] = value;
  }

  /** An unsigned number up to 2^53, seven bits a byte, lowest first. */
  unsigned(value: number): void {
    while (value > 0x7f) {
      this.byte((value % 128) | 0x80);
      value = Math.floor(value / 128);
    }
    this.byte(value);
  }

  /** A signed number of 32 bits. */
  signed(value: number): void {
    for (;;) {
      const low = value & 0x7f;
      value >>= 7;
      if (value === (low & 0x40 ? -1 : 0)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }

  /** A signed number of up to 64 bits. */
  signed64(value: bigint): void {
    for (;;) {
      const low = Number(value & 0x7fn);
      value >>= 7n;
      if (value === (low & 0x40 ? -1n : 0n)) return this.byte(low);
      this.byte(low | 0x80);
    }
  }

  i32(value: number): void {
    this.#reserve(4);
    this.#view.setInt32(this.#length, value, true);
    this.#length += 4;
  }

  f32(value: number): void {
    this.#reserve(4);
    this.#view.setFloat32(this.#length, value, true);
    this.#length += 4;
  }

  f64(value: number): void {
    this.#reserve(8);
    this.#view.setFloat64(this.#length, value, true);
    this.#length += 8;
  }

  /** What another has written. */
  append(other: Bytes): void {
    this.#reserve(other.#length);
    this.#data.set(other.#data.subarray(0, other.#length), this.#length);
    this.#length += other.#length;
  }

  /** UTF-8 with its length before it. */
  text(s: string): void {
    const bytes = encoder.encode(s);
    this.unsigned(bytes.length);
    for (const byte of bytes) this.byte(byte);
  }

  /** A count, then what `write` writes for each item. */
  vector<T>(items: readonly T[], write: (item: T) => void): void {
    this.unsigned(items.length);
    items.forEach(write);
  }

  /** What `write` writes into `scratch`, with its length before it. */
  sized(scratch: Bytes, write: (scratch: Bytes) => void): void {
    scratch.clear();
    write(scratch);
    this.unsigned(scratch.length);
    this.append(scratch);
  }

  #reserve(count: number): void {
    if (this.#length + count > this.#data.length) this.#grow(count);
  }

  #grow(count: number): void {
    const larger = new Uint8Array(Math.max(2 * this.#data.length, this.#length + count));
    larger.set(this.#data);
    this.#data = larger;
    this.#view = new DataView(larger.buffer);
  }
}
