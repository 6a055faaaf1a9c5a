/**
 * Block masks from what was found elsewhere: lists of blocks as FlexAttention keeps them, a state for each block, or a dense mask;
 * and back to lists. What is given may change in place: it is read again when its content is another.
 */
import { UsageError } from "../core/errors.ts";
import { BlockMask, type BlockMaskOptions, blockState, type GivenStates, sizesOf } from "./block-mask.ts";
import { DenseBlocks, DerivedBlocks, stampOf } from "./block-source.ts";
import { BlockStates, stateCode } from "./block-states.ts";
import { type MaskMod, maskMod } from "./mod.ts";
import { isTensor, type Tensor, tensor } from "./tensor.ts";

/**
 * Blocks of each row as lists: entry [b, h, r, i], i < number[b, h, r], is the i-th block of keys of row r. Integer tensors; batch and heads
 * may be 1 for all. Blocks of the `kv` lists are partial, those of the `full` lists full, others empty.
 */
export interface BlockLists {
  /** [batch, heads, rows] */
  readonly kvNumBlocks: Tensor;
  /** [batch, heads, rows, width]; entries beyond the number mean nothing. */
  readonly kvIndices: Tensor;
  readonly fullKvNumBlocks?: Tensor;
  readonly fullKvIndices?: Tensor;
}

export interface GivenOptions extends Omit<BlockMaskOptions, "exact"> {
  /** Which keys of a partial block are allowed; all when left out. */
  readonly mask?: MaskMod;
}

/** A block mask of lists, as FlexAttention's `BlockMask.from_kv_blocks`. @throws UsageError for shapes that do not fit, and blocks that are not there or listed twice. */
export function blockMaskFromLists(lists: BlockLists, options: GivenOptions): BlockMask {
  const { numRows, numColumns, batch, heads } = sizesOf(options);
  const { kvNumBlocks, kvIndices, fullKvNumBlocks, fullKvIndices } = lists;
  if (!fullKvNumBlocks !== !fullKvIndices) throw new UsageError("give both fullKvNumBlocks and fullKvIndices, or neither");
  const pairs = [["kv", kvNumBlocks, kvIndices, stateCode.ask], ...(fullKvNumBlocks && fullKvIndices ? [["fullKv", fullKvNumBlocks, fullKvIndices, stateCode.full] as const] : [])] as const;
  const [ofBatch, ofHeads] = kvNumBlocks.shape as [number, number];
  for (const [name, count, indices] of pairs) {
    const fits = count.shape.length === 3 && count.shape[2] === numRows && count.shape[0] === ofBatch && count.shape[1] === ofHeads
      && (ofBatch === 1 || ofBatch === batch) && (ofHeads === 1 || ofHeads === heads) && indices.shape.length === 4 && count.shape.every((n, d) => n === indices.shape[d]);
    if (!fits) throw new UsageError(`${name}NumBlocks has shape [${count.shape.join(", ")}] and its indices [${indices.shape.join(", ")}]; they must be [${batch} or 1, ${heads} or 1, ${numRows}] and the same with a width`);
  }
  const states = new BlockStates(ofBatch, ofHeads, numRows, numColumns, stateCode.empty);
  return given(options, states, pairs.flatMap(([, count, indices]) => [count, indices]), () => {
    states.fill(stateCode.empty);
    for (const [name, count, indices, code] of pairs) {
      const width = indices.shape[3]!;
      for (let at = 0; at < ofBatch * ofHeads * numRows; at++) {
        const b = Math.floor(at / (ofHeads * numRows)), h = Math.floor(at / numRows) % ofHeads, r = at % numRows, n = count.data[at]!;
        if (n > width || n < 0) throw new UsageError(`${name}NumBlocks[${b}][${h}][${r}] is ${n}; ${name}Indices has room for ${width}`);
        for (let i = 0; i < n; i++) {
          const c = indices.data[at * width + i]!;
          if (!(Number.isInteger(c) && c >= 0 && c < numColumns)) throw new UsageError(`${name}Indices[${b}][${h}][${r}][${i}] is ${c}; there are ${numColumns} blocks of keys`);
          if (states.get(b, h, r, c) !== stateCode.empty) throw new UsageError(`${name}Indices[${b}][${h}][${r}][${i}] is ${c}, and block ${c} of that row is listed already`);
          states.set(b, h, r, c, code);
        }
      }
    }
  });
}

/**
 * A block mask from states found elsewhere (top-k blocks, a routing network): [batch or 1, heads or 1, rows, columns] of `blockState`. Full
 * blocks are attended whole, partial ones where `mask` says so.
 */
export function blockMaskOf(states: Tensor, options: GivenOptions): BlockMask {
  const { numRows, numColumns, batch: ofBatch, heads: ofHeads } = sizesOf(options);
  const [batch, heads] = states.shape as [number, number];
  const fits = states.shape.length === 4 && (batch === 1 || batch === ofBatch) && (heads === 1 || heads === ofHeads) && states.shape[2] === numRows && states.shape[3] === numColumns;
  if (!fits) throw new UsageError(`the block states have shape [${states.shape.join(", ")}]; they must be [${ofBatch} or 1, ${ofHeads} or 1, ${numRows}, ${numColumns}]`);
  const table = new BlockStates(batch, heads, numRows, numColumns, stateCode.empty);
  const codes: Readonly<Record<number, 0 | 1 | 2 | undefined>> = { [blockState.empty]: stateCode.empty, [blockState.partial]: stateCode.ask, [blockState.full]: stateCode.full };
  return given(options, table, [states], () => {
    states.data.forEach((state, i) => {
      const c = i % numColumns, r = Math.floor(i / numColumns) % numRows, bh = Math.floor(i / (numColumns * numRows)), code = codes[state];
      if (code === undefined) throw new UsageError(`the state of block [${Math.floor(bh / heads)}, ${bh % heads}, ${r}, ${c}] is ${state}; it must be 0 (empty), 1 (partial) or 2 (full)`);
      table.set(Math.floor(bh / heads), bh % heads, r, c, code);
    });
  });
}

function given(options: GivenOptions, states: BlockStates, from: readonly Tensor[], write: () => void): BlockMask {
  const sizes = sizesOf(options), mask = options.mask ?? maskMod(() => true);
  let stamps: readonly number[] = [];
  const source: GivenStates = {
    states,
    isStale: () => from.some((t, i) => stampOf(t) !== stamps[i]),
    fill: () => {
      // Only then, so that what was refused is refused again.
      const now = from.map(stampOf);
      write();
      stamps = now;
    },
  };
  return new BlockMask(new DerivedBlocks(mask, sizes), sizes, source);
}

/**
 * A block mask of a dense mask [batch, heads, queries, keys], where an element that is not 0 allows. Blocks are counted, so all are exact.
 * The kernel reads the elements as bits.
 */
export function blockMaskFromDense(dense: Tensor, options: Pick<BlockMaskOptions, "blockSize"> = {}): BlockMask {
  if (!isTensor(dense) || dense.shape.length !== 4) throw new UsageError("blockMaskFromDense() takes a tensor [batch, heads, queries, keys], which may have batch 1 and 1 head");
  const [batch, heads, queryLength, kvLength] = dense.shape as [number, number, number, number];
  const sizes = sizesOf({ batch, heads, queryLength, kvLength, ...options });
  return new BlockMask(new DenseBlocks(dense, sizes), sizes);
}

/** The blocks as lists, made on demand: as wide as the longest row needs, ascending, -1 beyond the number. */
export function toLists(blocks: BlockMask): Required<BlockLists> {
  const { batch, heads } = blocks.options, { numRows } = blocks;
  const list = (partial: 0 | 1): { readonly count: Tensor; readonly indices: Tensor } => {
    const count = new Int32Array(batch * heads * numRows);
    const eachRun = (visit: (at: number, first: number, n: number) => void): void => {
      for (let at = 0; at < count.length; at++) {
        const runs = blocks.row(Math.floor(at / (heads * numRows)), Math.floor(at / numRows) % heads, at % numRows);
        for (let i = 0; i < runs.length; i += 2) if ((runs[i + 1]! & 1) === partial) visit(at, runs[i]!, runs[i + 1]! >> 1);
      }
    };
    eachRun((at, _first, n) => { count[at]! += n; });
    const width = count.reduce((a, b) => Math.max(a, b), 0), indices = new Int32Array(count.length * width).fill(-1), used = new Int32Array(count.length);
    eachRun((at, first, n) => {
      for (let i = 0; i < n; i++) indices[at * width + used[at]!++] = first + i;
    });
    return { count: tensor(count, [batch, heads, numRows]), indices: tensor(indices, [batch, heads, numRows, width]) };
  };
  const kv = list(1), full = list(0);
  return { kvNumBlocks: kv.count, kvIndices: kv.indices, fullKvNumBlocks: full.count, fullKvIndices: full.indices };
}
