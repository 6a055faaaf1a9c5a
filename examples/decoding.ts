/**
 * What the three examples of decoding share: made-up tokens, the mask, and three caches to keep keys and values in. The examples differ in
 * how they have the blocks of each step's mask: decoding-recompute.ts, decoding-mutate.ts and decoding-index.ts.
 *
 * Every sequence has a prompt in the cache already. A step adds one token to each and attends from it.
 */
import { flexAttention, maskMod, openPagedKvCache, type PagedKvCache, type Tensor, tensor } from "../src/attention/index.ts";

export const [heads, kvHeads, dim] = [4, 2, 16];
export const [steps, maxTokens, size] = [14, 40, 24];
/** A sequence's tokens see themselves and the 23 before them. */
export const visible = maskMod(({ size }) => (b, h, q, kv) => q >= kv && q - kv < size, { size });

/** The query, key or value of a token: [heads, dim], or [kvHeads, dim]. A model would compute it. */
export function token(what: "query" | "key" | "value", sequence: number, position: number): Float32Array {
  const seed = { query: 1.3, key: 2.1, value: 0.7 }[what];
  return Float32Array.from({ length: (what === "query" ? heads : kvHeads) * dim }, (_, i) => Math.sin((i + 1) * seed + sequence * 5.5 + position * (1 + seed)) * 1.5);
}

/** What attention gave for one token: [heads, dim]. */
export interface Attended {
  readonly sequence: number;
  readonly position: number;
  readonly out: Float32Array;
}

/** [1 or B, heads, rows, dim] as one entry for each token, in the order of rows (and then of sequences). */
export function attended(out: Tensor, tokens: readonly { readonly sequence: number; readonly position: number }[]): Attended[] {
  const rows = out.shape[2]!, batch = out.shape[0]!;
  return tokens.map(({ sequence, position }, i) => {
    const b = batch === 1 ? 0 : i, row = batch === 1 ? i : 0;
    return { sequence, position, out: Float32Array.from({ length: heads * dim }, (_, j) => out.data[((b * heads + Math.floor(j / dim)) * rows + row) * dim + (j % dim)]!) };
  });
}

/** The queries of some tokens as [1, heads, tokens, dim]. */
export function packedQuery(tokens: readonly { readonly sequence: number; readonly position: number }[]): Tensor {
  const data = new Float32Array(heads * tokens.length * dim);
  tokens.forEach(({ sequence, position }, row) => {
    const q = token("query", sequence, position);
    for (let h = 0; h < heads; h++) data.set(q.subarray(h * dim, (h + 1) * dim), (h * tokens.length + row) * dim);
  });
  return tensor(data, [1, heads, tokens.length, dim]);
}

/** Keys and values of [batch, kvHeads, capacity, dim], filled slot by slot. */
class Slots {
  readonly #batch: number;
  readonly #capacity: number;
  readonly #data: { readonly key: Float32Array; readonly value: Float32Array };

  constructor(batch: number, capacity: number) {
    this.#batch = batch;
    this.#capacity = capacity;
    const make = (): Float32Array => new Float32Array(batch * kvHeads * capacity * dim);
    this.#data = { key: make(), value: make() };
  }

  put(b: number, slot: number, sequence: number, position: number): void {
    for (const what of ["key", "value"] as const) {
      const t = token(what, sequence, position);
      for (let g = 0; g < kvHeads; g++) this.#data[what].set(t.subarray(g * dim, (g + 1) * dim), ((b * kvHeads + g) * this.#capacity + slot) * dim);
    }
  }

  /** The first `length` slots, where they lie; all of them when left out. */
  view(what: "key" | "value", length = this.#capacity): Tensor {
    return tensor(this.#data[what], [this.#batch, kvHeads, length, dim], { strides: [kvHeads * this.#capacity * dim, this.#capacity * dim, dim, 1] });
  }
}

/** [B, H, maxTokens, D]: a row of slots for each sequence; all are at the same position. */
export class StaticCache {
  static readonly prompts = [20, 20];
  readonly slots = new Slots(2, maxTokens);
  /** Tokens of each sequence. */
  length = 0;

  constructor() {
    while (this.length < StaticCache.prompts[0]!) this.add();
  }

  /** The next token of each sequence. */
  add(): { readonly sequence: number; readonly position: number }[] {
    for (const b of [0, 1]) this.slots.put(b, this.length, b, this.length);
    const position = this.length++;
    return [0, 1].map((sequence) => ({ sequence, position }));
  }

  /** [B, H, 1, D] */
  query(position: number): Tensor {
    return tensor(Float32Array.from([0, 1].flatMap((b) => [...token("query", b, position)])), [2, heads, 1, dim]);
  }
}

/** [1, H, totalTokens, D]: tokens of all sequences in the order they came. Two tables that grow say whose each is, and its position there. */
export class PackedCache {
  static readonly prompts = [20, 13];
  static readonly capacity = 2 * maxTokens;
  readonly slots = new Slots(1, PackedCache.capacity);
  /** -1 where no token is yet. */
  readonly documentId = new Int32Array(PackedCache.capacity).fill(-1);
  readonly place = new Int32Array(PackedCache.capacity);
  readonly #lengths = [0, 0];
  length = 0;
  /** `visible`, between tokens of one document. */
  readonly mask = maskMod(({ documentId, place, visible }) => (b, h, q, kv) => documentId[q] === documentId[kv] && visible(b, h, place[q]!, place[kv]!), { documentId: this.documentId, place: this.place, visible });

  constructor() {
    for (const sequence of [0, 1]) while (this.#lengths[sequence]! < PackedCache.prompts[sequence]!) this.#put(sequence);
  }

  #put(sequence: number): { readonly sequence: number; readonly position: number } {
    const position = this.#lengths[sequence]!++;
    this.slots.put(0, this.length, sequence, position);
    this.documentId[this.length] = sequence;
    this.place[this.length++] = position;
    return { sequence, position };
  }

  /** The next token of each sequence. */
  add(): { readonly sequence: number; readonly position: number }[] {
    return [0, 1].map((sequence) => this.#put(sequence));
  }
}

/** Pages of 4 tokens, handed out as sequences grow. */
export class PagedCache {
  static readonly prompts = [20, 13];
  readonly pages: PagedKvCache;
  static async open(): Promise<PagedCache> {
    const cache = new PagedCache(await openPagedKvCache({ numPages: 2 * Math.ceil(maxTokens / 4), pageSize: 4, numKvHeads: kvHeads, headDim: dim, maxSequences: 2, maxLength: maxTokens }));
    for (let i = 0; i < Math.max(...PagedCache.prompts); i++) for (const s of [0, 1]) if (i < PagedCache.prompts[s]!) await cache.#put(s);
    return cache;
  }

  private constructor(pages: PagedKvCache) {
    this.pages = pages;
  }

  async #put(sequence: number): Promise<{ readonly sequence: number; readonly position: number }> {
    const position = this.pages.length(sequence), shape = [1, kvHeads, 1, dim];
    await this.pages.assign(sequence, position, tensor(token("key", sequence, position), shape), tensor(token("value", sequence, position), shape));
    return { sequence, position };
  }

  /** The next token of each sequence. */
  async add(): Promise<{ readonly sequence: number; readonly position: number }[]> {
    return [await this.#put(0), await this.#put(1)];
  }
}

/** What every way must give: attention over all tokens of the sequence again, without cache and blocks. */
export async function fromScratch(sequence: number, position: number): Promise<Float32Array> {
  const all = (what: "query" | "key" | "value", n: number): Tensor => {
    const data = new Float32Array(n * (position + 1) * dim);
    for (let p = 0; p <= position; p++) {
      const t = token(what, sequence, p);
      for (let h = 0; h < n; h++) data.set(t.subarray(h * dim, (h + 1) * dim), (h * (position + 1) + p) * dim);
    }
    return tensor(data, [1, n, position + 1, dim]);
  };
  const out = await flexAttention(all("query", heads), all("key", kvHeads), all("value", kvHeads), { maskMod: visible });
  return Float32Array.from({ length: heads * dim }, (_, i) => out.data[(Math.floor(i / dim) * (position + 1) + position) * dim + (i % dim)]!);
}

/** A way of decoding: the steps over each kind of cache. */
export type Way = Readonly<Record<"static" | "packed" | "paged", () => AsyncGenerator<readonly Attended[]>>>;

/** Runs the steps over each cache and prints how far each is from attention over everything again. */
export async function compare(name: string, way: Way): Promise<void> {
  for (const [cache, run] of Object.entries(way)) {
    let worst = 0, tokens = 0;
    for await (const step of run()) {
      for (const { sequence, position, out } of step) {
        const want = await fromScratch(sequence, position);
        worst = Math.max(worst, ...out.map((x, i) => Math.abs(x - want[i]!)));
        tokens++;
      }
    }
    console.log(`${name}, ${cache} cache: ${tokens} tokens, at most ${worst.toExponential(1)} from attention over everything again`);
  }
}
