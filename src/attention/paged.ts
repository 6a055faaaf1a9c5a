/**
 * A cache of keys and values in pages, and attention over it: any mix of whole prompts, chunks, single tokens and drafted trees in one call.
 *
 * A sequence is a row of the block table and the mods' `b`; positions are logical, so a mod never sees a page. Pages may be shared, and
 * nothing grows with the pool. It knows no model: layers, prefixes found by content and scheduling are the engine's.
 */
import type { Backend, Buffer, Layout } from "../backend/backend.ts";
import { type Device } from "../backend/registry.ts";
import { bytesPerElement, fromFloat32 } from "../core/dtype.ts";
import { UsageError } from "../core/errors.ts";
import { bytesPerKvElement } from "../ir/plan.ts";
import { indicesOf } from "../ir/range.ts";
import { type Aux, capsFor, queryFormatOf } from "./arguments.ts";
import { captureValues, inTurn, sharedBackend, type WithAux } from "./attention.ts";
import type { BlockMask } from "./block-mask.ts";
import { copyCaptures } from "./captures.ts";
import { compilePlanned, planAttention } from "./compile.ts";
import type { MaskMod, OutputMod, ScoreMod } from "./mod.ts";
import { contiguous, floats, type Tensor, tensor, type TypedArray } from "./tensor.ts";
import { planWork } from "./work-list.ts";

export interface PagedKvOptions {
  readonly numPages: number;
  /** Tokens of a page, from 1. */
  readonly pageSize: number;
  readonly numKvHeads: number;
  /** Elements of a key. */
  readonly headDim: number;
  /** Elements of a value; as of a key when left out. */
  readonly headDimV?: number;
  /** Rows of the block table, and most tokens of one. */
  readonly maxSequences: number;
  readonly maxLength: number;
  /** How keys and values are kept; f32 when left out, which a device of 16 bits (cuda) does not have. */
  readonly format?: "f32" | "bf16" | "f16";
  readonly device?: Device;
  readonly backend?: Backend;
}

/** Query rows of one sequence in a call. */
export interface PagedRows {
  readonly sequence: number;
  readonly rows: number;
  /** Position of the first of them; when left out, they are the sequence's last. */
  readonly position?: number;
}

export interface PagedAttentionOptions {
  readonly scoreMod?: ScoreMod;
  readonly maskMod?: MaskMod;
  /** Blocks over logical positions, at least as long as any sequence in the call, instead of `maskMod`: a row's blocks are looked up, not found. */
  readonly blockMask?: BlockMask;
  readonly outputMod?: OutputMod;
  readonly scale?: number;
  /** Further results, [1, Hq, rows]. */
  readonly aux?: readonly Aux[];
}

/** What stands in the table where no page is. */
const noPage = 0x7fffffff;

/** Opens a cache: memory for all its pages is taken at once. @throws UsageError for sizes that are none, and when there is no room. */
export async function openPagedKvCache(options: PagedKvOptions): Promise<PagedKvCache> {
  const { numPages, pageSize, numKvHeads, headDim, headDimV = headDim, maxSequences, maxLength } = options;
  for (const [name, value] of Object.entries({ numPages, pageSize, numKvHeads, headDim, headDimV, maxSequences, maxLength })) {
    if (!Number.isInteger(value) || value < 1) throw new UsageError(`${name} is ${value}; it must be a whole number from 1`);
  }
  const { device, activationBits } = capsFor(options);
  if (activationBits === 16 && (options.format ?? "f32") === "f32") throw new UsageError(`device ${device} keeps keys and values in 16 bits; give format: "bf16" or "f16"`);
  return new PagedKvCache(options, options.backend ?? (await sharedBackend(options.device ?? "cpu")));
}

export class PagedKvCache {
  readonly options: PagedKvOptions;
  readonly #backend: Backend;
  readonly #key: Buffer;
  readonly #value: Buffer;
  readonly #dims: readonly [key: number, value: number];
  readonly #maxPages: number;
  /** [maxSequences, maxPages] */
  readonly #table: Int32Array;
  readonly #numPages: Int32Array;
  readonly #lengths: Int32Array;
  /** A stack of free pages, and how many sequences hold each page. */
  readonly #free: number[];
  readonly #holders: Int32Array;

  /** Made by `openPagedKvCache`. */
  constructor(options: PagedKvOptions, backend: Backend) {
    const { numPages, pageSize, numKvHeads, headDim, headDimV = headDim, maxSequences, maxLength, format = "f32" } = options;
    this.options = options;
    this.#backend = backend;
    this.#dims = [headDim, headDimV];
    this.#maxPages = Math.ceil(maxLength / pageSize);
    const bytes = (dim: number): number => numPages * pageSize * numKvHeads * dim * bytesPerKvElement[format];
    this.#key = backend.alloc(bytes(headDim));
    this.#value = backend.alloc(bytes(headDimV));
    this.#table = new Int32Array(maxSequences * this.#maxPages).fill(noPage);
    this.#numPages = new Int32Array(maxSequences);
    this.#lengths = new Int32Array(maxSequences);
    this.#free = Array.from({ length: numPages }, (_, i) => numPages - 1 - i);
    this.#holders = new Int32Array(numPages);
  }

  get numFreePages(): number {
    return this.#free.length;
  }

  /** Tokens assigned to a sequence, up to the last. */
  length(sequence: number): number {
    return this.#lengths[this.#checked(sequence)]!;
  }

  /** The pages of a sequence, in order. */
  pages(sequence: number): Int32Array {
    const at = this.#checked(sequence) * this.#maxPages;
    return this.#table.slice(at, at + this.#numPages[sequence]!);
  }

  /** Makes sure a sequence has pages for `length` tokens. @throws UsageError, taking none, when the pool has too few left. */
  reserve(sequence: number, length: number): void {
    const { pageSize, maxLength } = this.options, has = this.#numPages[this.#checked(sequence)]!, need = Math.ceil(length / pageSize);
    if (!(length >= 0 && length <= maxLength)) throw new UsageError(`sequence ${sequence} is to have ${length} tokens; the cache was opened with maxLength ${maxLength}`);
    if (need - has > this.#free.length) throw new UsageError(`sequence ${sequence} needs ${need - has} more pages for ${length} tokens, and ${this.#free.length} are free; erase a sequence, or open the cache with more pages`);
    for (let i = has; i < need; i++) {
      const page = this.#free.pop()!;
      this.#holders[page] = 1;
      this.#table[sequence * this.#maxPages + i] = page;
    }
    this.#numPages[sequence] = Math.max(has, need);
  }

  /**
   * Writes tokens `position` .. of a sequence: key [1, Hkv, n, D] and value [1, Hkv, n, Dv], of floats. Reserves what they need.
   * @throws UsageError for shapes that do not fit, a gap before `position`, and a page that other sequences read too.
   */
  async assign(sequence: number, position: number, key: Tensor, value: Tensor): Promise<void> {
    const { pageSize, numKvHeads } = this.options, n = key.shape[2]!, length = this.#lengths[this.#checked(sequence)]!;
    for (const [name, t, dim] of [["key", key, this.#dims[0]], ["value", value, this.#dims[1]]] as const) {
      if (t.shape.length !== 4 || t.shape[0] !== 1 || t.shape[1] !== numKvHeads || t.shape[2] !== n || t.shape[3] !== dim) throw new UsageError(`${name} has shape [${t.shape.join(", ")}]; it must be [1, ${numKvHeads}, tokens, ${dim}]`);
    }
    if (!(Number.isInteger(position) && position >= 0 && position <= length)) throw new UsageError(`position is ${position}; sequence ${sequence} has ${length} tokens, and there can be no gap`);
    this.reserve(sequence, position + n);
    const slots = Int32Array.from({ length: n }, (_, i) => this.#table[sequence * this.#maxPages + Math.floor((position + i) / pageSize)]! * pageSize + ((position + i) % pageSize));
    const shared = slots.find((slot) => this.#holders[Math.floor(slot / pageSize)]! > 1);
    if (shared !== undefined) throw new UsageError(`page ${Math.floor(shared / pageSize)} of sequence ${sequence} is shared; tokens can be written behind the shared pages only`);
    this.#lengths[sequence] = Math.max(length, position + n);
    const [keys, values] = [this.#tokensFirst(key, this.#dims[0]), this.#tokensFirst(value, this.#dims[1])];
    await inTurn(this.#backend, async () => {
      for (const [to, bytes] of [[this.#key, keys], [this.#value, values]] as const) {
        const each = bytes.length / Math.max(1, n);
        // Tokens that follow each other in memory are one write.
        for (let i = 0, end = 1; i < n; i = end) {
          for (end = i + 1; end < n && slots[end] === slots[end - 1]! + 1; end++);
          this.#backend.write(to, slots[i]! * each, bytes.subarray(i * each, end * each));
        }
      }
    });
  }

  /** Gives `to`, which must be empty, the first `numTokens` of `from`: whole pages, read by both from now on. */
  share(from: number, to: number, numTokens: number): void {
    const { pageSize } = this.options, n = numTokens / pageSize;
    if (this.#numPages[this.#checked(to)]! > 0) throw new UsageError(`sequence ${to} has tokens; erase it before it shares those of ${from}`);
    if (!(Number.isInteger(n) && numTokens >= 0 && numTokens <= this.#lengths[this.#checked(from)]!)) throw new UsageError(`${numTokens} tokens are to be shared; it must be a multiple of the page size ${pageSize}, at most the ${this.#lengths[from]} of sequence ${from}`);
    for (let i = 0; i < n; i++) {
      const page = this.#table[from * this.#maxPages + i]!;
      this.#holders[page]!++;
      this.#table[to * this.#maxPages + i] = page;
    }
    this.#numPages[to] = n;
    this.#lengths[to] = numTokens;
  }

  /** Forgets a sequence from `length` on (all of it when left out); pages that nobody reads any more are free. Rejected drafts go this way. */
  erase(sequence: number, length = 0): void {
    const keep = Math.ceil(length / this.options.pageSize), at = this.#checked(sequence) * this.#maxPages;
    if (!(length >= 0 && length <= this.#lengths[sequence]!)) throw new UsageError(`sequence ${sequence} has ${this.#lengths[sequence]} tokens, not ${length} to keep`);
    for (let i = this.#numPages[sequence]! - 1; i >= keep; i--) {
      const page = this.#table[at + i]!;
      this.#table[at + i] = noPage;
      if (--this.#holders[page]! === 0) this.#free.push(page);
    }
    this.#numPages[sequence] = keep;
    this.#lengths[sequence] = length;
  }

  /**
   * Attention of query [1, Hq, rows, D], the rows of the named sequences one after another, over those sequences' tokens. Gives
   * [1, Hq, rows, Dv] in f32; on a device of 16 bits the query is of the cache's format, and so is the result. One launch, whatever the mix.
   * @throws UsageError for rows that do not fit, ModError for a mod the compiler cannot read.
   */
  attention<const A extends readonly Aux[]>(query: Tensor, sequences: readonly PagedRows[], options: PagedAttentionOptions & { readonly aux: A }): Promise<WithAux<A>>;
  attention(query: Tensor, sequences: readonly PagedRows[], options?: Omit<PagedAttentionOptions, "aux">): Promise<Tensor>;
  async attention(query: Tensor, sequences: readonly PagedRows[], options: PagedAttentionOptions = {}): Promise<Tensor | WithAux> {
    const { pageSize, numKvHeads, maxSequences, format } = this.options, [dim, dimV] = this.#dims;
    const [one, heads, numRows] = query.shape as [number, number, number];
    const total = sequences.reduce((n, s) => n + s.rows, 0);
    if (query.shape.length !== 4 || one !== 1 || numRows !== total || query.shape[3] !== dim) throw new UsageError(`query has shape [${query.shape.join(", ")}]; for these sequences it must be [1, heads, ${total}, ${dim}]`);
    const zeros = (): Int32Array => new Int32Array(maxSequences);
    const batch = { numSequences: maxSequences, firstRow: zeros(), numRows: zeros(), firstPosition: zeros(), kvLength: this.#lengths.slice() };
    let row = 0;
    for (const { sequence, rows, position } of sequences) {
      const length = this.#lengths[this.#checked(sequence)]!, first = position ?? length - rows;
      if (batch.numRows[sequence]! > 0) throw new UsageError(`sequence ${sequence} stands twice in one call; its rows go together`);
      if (!(Number.isInteger(first) && first >= 0 && Number.isInteger(rows) && rows >= 0)) throw new UsageError(`sequence ${sequence}: ${rows} rows from position ${first}, and it has ${length} tokens`);
      batch.firstRow[sequence] = row;
      batch.numRows[sequence] = rows;
      batch.firstPosition[sequence] = first;
      row += rows;
    }
    const table = this.#table.slice();
    const blockMask = options.blockMask?.current(), blocksVersion = blockMask?.version;
    if (blockMask) checkBlocks(blockMask, options.maskMod, batch, heads);
    const { caps } = this.#backend, kvFormat = format ?? "f32";
    const queryFormat = queryFormatOf(caps, query, { key: kvFormat, value: kvFormat }), elementBytes = bytesPerElement[queryFormat ?? "f32"];
    const planned = planAttention({
      scoreMod: options.scoreMod, maskMod: blockMask?.mask ?? options.maskMod, outputMod: options.outputMod, scale: options.scale,
      numQueryHeads: heads, numKvHeads, headDimQk: dim, headDimV: dimV, ...(format && { keyFormat: format, valueFormat: format }), queryFormat, ...caps.tiles,
    });
    // The values of now, as of the table: both may change before this call has its turn.
    const values = copyCaptures(planned.bindings);
    return inTurn(this.#backend, async () => {
      const { kernel, mask } = await compilePlanned(this.#backend, planned);
      const work = planWork(mask && (blockMask && blockMask.version === blocksVersion ? blockMask : mask.bind(values)), batch, { ...kernel.plan, numQueryHeads: heads });
      const backend = this.#backend, buffers: Buffer[] = [];
      const upload = (data: TypedArray): Buffer => {
        const buffer = backend.alloc(Math.max(4, data.byteLength));
        buffers.push(buffer);
        backend.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
        return buffer;
      };
      try {
        const out = upload(new Uint8Array(elementBytes * numRows * heads * dimV));
        const statistics = [...new Set(options.aux)].map((name) => ({ name, data: upload(new Float32Array(numRows * heads)) }));
        const pool = (data: Buffer, d: number): Layout => ({ data, sequenceStride: pageSize * numKvHeads * d, rowStride: numKvHeads * d, headStride: d });
        const packed = (data: Buffer, d: number): Layout => ({ data, sequenceStride: 0, headStride: numRows * d, rowStride: d });
        backend.ops.attention({
          kernel, captures: captureValues(kernel.plan.captures, values, upload), query: packed(upload(queryFormat ? contiguous(query).data : floats(query)), dim), out: packed(out, dimV), key: pool(this.#key, dim), value: pool(this.#value, dimV),
          pageSize, blockTable: upload(table), maxPagesPerSequence: this.#maxPages, work: upload(work),
          ...Object.fromEntries(statistics.map(({ name, data }) => [name, { data, sequenceStride: 0 }])),
        });
        const read = async (buffer: Buffer, n: number): Promise<Float32Array> => new Float32Array((await backend.read(buffer, 0, 4 * n)).slice().buffer);
        const bits = (await backend.read(out, 0, elementBytes * numRows * heads * dimV)).slice().buffer;
        const result = tensor(queryFormat ? new Uint16Array(bits) : new Float32Array(bits), [1, heads, numRows, dimV], queryFormat ?? "f32");
        if (!options.aux) return result;
        const all: { out: Tensor } & { [name in Aux]?: Tensor } = { out: result };
        for (const { name, data } of statistics) {
          const rowsFirst = await read(data, numRows * heads);
          all[name] = tensor(rowsFirst.map((_, i) => rowsFirst[(i % numRows) * heads + Math.floor(i / numRows)]!), [1, heads, numRows]);
        }
        return all;
      } finally {
        for (const buffer of buffers) backend.free(buffer);
      }
    });
  }

  /** Frees the pages' memory. */
  close(): void {
    this.#backend.free(this.#key);
    this.#backend.free(this.#value);
  }

  #checked(sequence: number): number {
    if (!(Number.isInteger(sequence) && sequence >= 0 && sequence < this.options.maxSequences)) throw new UsageError(`sequence ${sequence} is none of 0 to ${this.options.maxSequences - 1}`);
    return sequence;
  }

  /** [1, heads, n, d] as the bytes of [n, heads, d] in the cache's format. */
  #tokensFirst(t: Tensor, d: number): Uint8Array {
    const [, heads, n] = t.shape as [number, number, number], from = floats(t), to = new Float32Array(from.length);
    for (let h = 0; h < heads; h++) for (let i = 0; i < n; i++) to.set(from.subarray((h * n + i) * d, (h * n + i + 1) * d), (i * heads + h) * d);
    return fromFloat32(to, this.options.format ?? "f32");
  }
}

function checkBlocks(blocks: BlockMask, maskMod: MaskMod | undefined, batch: { readonly numRows: Int32Array; readonly firstPosition: Int32Array; readonly kvLength: Int32Array }, heads: number): void {
  if (maskMod) throw new UsageError("give maskMod or blockMask, not both; a block mask carries its mask");
  const { queryLength, kvLength, batch: sequences, heads: ofHeads } = blocks.options, reads = indicesOf(blocks.mask.expr());
  batch.numRows.forEach((rows, s) => {
    if (rows === 0) return;
    const end = batch.firstPosition[s]! + rows;
    if (end > queryLength || batch.kvLength[s]! > kvLength) throw new UsageError(`sequence ${s} has queries to position ${end - 1} and ${batch.kvLength[s]} keys, the block mask ${queryLength} queries and ${kvLength} keys; append to it, or make it longer`);
    if (reads.has("b") && s >= sequences) throw new UsageError(`the block mask is for batch ${sequences} and its mask reads b; sequence ${s} is not among them`);
  });
  if (reads.has("h") && ofHeads !== heads) throw new UsageError(`the block mask is for ${ofHeads} heads and its mask reads h; the query has ${heads}`);
}
