/**
 * linear: out[r, n] = sum_k x[r, k] weight[n, k] (+ bias[n]) (+ residual[r, n]), over f32 or bf16 weights where they lie.
 *
 * The order of the sum is fixed, so a row's bits never depend on how many rows there are or on the shape that computed it:
 * one accumulator of four lanes per output, lane k mod 4, k ascending, each step a relaxed_madd; what is left of k
 * (K mod 4) goes to lane 0 one by one; then (l0 + l1) + (l2 + l3); then + bias; then + residual.
 *
 * One loop for all row counts: a piece of work is a block of columns, whose weights stay in cache, times up to 96 rows;
 * inside, tiles of rows x columns accumulators. Knows no ops and no buffers: addresses and sizes come as words.
 *
 * The floor of one thread, and what is reached of it (2.3 GHz Xeon, Node 26.10, 2026-11-23, bench/matmul.ts on a busy machine):
 * multiply-adds, 46.6 GFLOP/s when nothing is loaded: 8 and more rows 43 (f32) and 35-41 (bf16: widening takes the rest).
 * One row reads each weight once: 28 GFLOP/s, so 57 GB/s (f32) and 28 GB/s (bf16), bound by instructions, from the second-level
 * cache; f32 from farther away 30 GB/s (a plain sequential read there: 90).
 */
import { block, branch, branchIf, call, f32x4, forRange, i32, i8x16, loop, splat, v128, when, type Func, type Local, type Memory, type Module, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel, type MakeLocal } from "./kernel.ts";
import { bytesPerWeight, least, loadFourWeights, loadOneWeight, rowCount, rowWords, sumOfLanes, type WeightType } from "./rows.ts";

/** Argument words of `linear_f32` and `linear_bf16`. Addresses in bytes, strides in elements. */
export const linearArgs = {
  ...rowWords,
  /** f32 [rows, n] and [rows, k]; x is not out. */
  out: 2, outStride: 3, x: 4, xStride: 5,
  /** [n, k], row-major, without gaps, in the memory `weights`. */
  weight: 6, n: 7, k: 8,
  /** f32 [n]; 0: none. */
  bias: 9,
  /** f32 [rows, n], may be `out`; 0: none. */
  residual: 10, residualStride: 11,
  /** Columns of one piece of work: what `linearPieceColumns` says. Any number from 1 gives the same bits. */
  pieceColumns: 12,
} as const;

/** Rows of one piece: bounds what one thread alone is left with at the end. */
const pieceRows = 96;

/** Columns of one piece: some 16 KiB of weights, about a microsecond of one row's work, so that a claim costs little beside it. */
export function linearPieceColumns(k: number, dtype: WeightType): number {
  return Math.max(8, Math.floor(16384 / (k * bytesPerWeight[dtype]) / 8) * 8);
}

/**
 * Columns of a tile, by its rows. x86 has 16 vector registers: rows x columns accumulators, the fewer of the two operands held, and
 * one of the other streaming past must fit in 15 of them, or V8 spills (measured: 3 x 4 and 4 x 4 lose a third to 6 x 2). At least
 * 8 accumulators are wanted to cover the latency of a multiply-add.
 */
const tileColumns: Readonly<Record<number, number>> = { 1: 8, 2: 4, 3: 2, 4: 2, 5: 2, 6: 2 };
const mostRows = 6;

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Four of eight bf16 as f32: interleaved with zeros below them, one instruction on x86. */
const widened = (eight: Operand, first: 0 | 4): Node =>
  i8x16.shuffle(splat.i32(0), eight, range(4).flatMap((i) => [2 * (first + i), 2 * (first + i) + 1, 16 + 2 * (first + i), 17 + 2 * (first + i)]));

/** (l0 + l1) + (l2 + l3) of four accumulators, as the lanes of one vector. */
function sumsOfFour(a: Local, b: Local, c: Local, d: Local): Node {
  const pick = (x: Operand, y: Operand, first: number): Node =>
    i8x16.shuffle(x, y, [first, first + 2, first + 4, first + 6].flatMap((lane) => range(4).map((byte) => 4 * lane + byte)));
  const ab = f32x4.add(pick(a, b, 0), pick(a, b, 1)), cd = f32x4.add(pick(c, d, 0), pick(c, d, 1));
  return f32x4.add(pick(ab, cd, 0), pick(ab, cd, 1));
}
/** The variables of a tile; smaller tiles use the first of each. */
interface TileLocals {
  /** K in bytes of x, where x's first row ends, a stride in bytes, the address of the bias. */
  readonly k: Local; readonly end: Local; readonly stride: Local; readonly bias: Local;
  /** Where each row of x and each column of the weights stands. */
  readonly x: readonly Local[]; readonly w: readonly Local[];
  readonly held: readonly Local[]; readonly later: readonly Local[]; readonly streamed: Local; readonly eight: Local;
  readonly sums: readonly (readonly Local[])[];
}
function tileLocals(local: MakeLocal, rows: number, columns: number): TileLocals {
  return {
    k: local("i32", "kBytes"), end: local("i32", "end"), stride: local("i32", "stride"), bias: local("i32", "bias"),
    x: range(rows).map((i) => local("i32", `x${i}`)), w: range(columns).map((j) => local("i32", `w${j}`)),
    held: range(Math.min(rows, columns)).map((i) => local("v128", `held${i}`)), later: range(Math.min(rows, 2)).map((i) => local("v128", `later${i}`)),
    streamed: local("v128", "streamed"), eight: local("v128", "eight"),
    sums: range(rows).map((i) => range(columns).map((j) => local("v128", `sum${i}_${j}`))),
  };
}

/**
 * `rows<R>_<dtype>(args, row, column, columnEnd)`: R rows from `row` on, times the columns [column, columnEnd): tiles as wide
 * as the table says, what is left column by column.
 */
function tileFunction(m: Module, dtype: WeightType, rows: number): Func {
  const params = { args: "i32", row: "i32", column: "i32", columnEnd: "i32" } as const;
  const columns = tileColumns[rows]!, weights = m.memory("weights");
  return m.func(`rows${rows}_${dtype}`, params, "none", ({ args, row, column, columnEnd }, local) => {
    const t = tileLocals(local, rows, columns);
    const tiles = (width: number): Node => block(`by${width}_done`, (done) => [
      loop(`by${width}`, (next) => [
        branchIf(done, i32.gt_s(i32.add(column, width), columnEnd)),
        ...tile(dtype, weights, t, width, args, row, column),
        column.set(i32.add(column, width)),
        branch(next),
      ]),
    ]);
    return [t.k.set(i32.shl(argument(args, linearArgs.k), 2)), tiles(columns), tiles(1)];
  }, { internal: true });
}

/** One tile: all of K for its rows and `columns` columns, then the sums, bias and residual, stored. */
function tile(dtype: WeightType, weights: Memory, t: TileLocals, columns: number, args: Local, row: Local, column: Local): readonly Node[] {
  const { x } = t;
  const w = t.w.slice(0, columns), sums = t.sums.map((s) => s.slice(0, columns));
  const size = bytesPerWeight[dtype];

  /** sums[i][j] += x[i] * w[j], four lanes. The fewer of the two operands are held while the others stream past them. */
  const multiplyAdd = (loadX: (row: Local) => Node, loadW: (column: Local) => Node): Node[] => {
    const holdX = x.length <= columns;
    const [hold, stream] = holdX ? [x.map(loadX), w.map(loadW)] : [w.map(loadW), x.map(loadX)];
    return [
      ...hold.map((load, i) => t.held[i]!.set(load)),
      ...stream.flatMap((load, j) => [
        t.streamed.set(load),
        ...hold.map((_, i) => {
          const sum = holdX ? sums[i]![j]! : sums[j]![i]!;
          return sum.set(f32x4.relaxed_madd(t.held[i]!, t.streamed, sum));
        }),
      ]),
    ];
  };
  const four = (offset: number): Node[] => multiplyAdd((p) => v128.load(p, 4 * offset), (p) => loadFourWeights[dtype](weights.at(p), size * offset));
  /** Eight bf16 of a column from one load: twice as fast as two loads that widen, where x has few rows to hold. */
  const eightBf16 = (): Node[] => [
    ...x.flatMap((p, i) => [t.held[i]!.set(v128.load(p)), t.later[i]!.set(v128.load(p, 16))]),
    ...w.flatMap((p, j) => [
      t.eight.set(v128.load(weights.at(p))),
      ...([[0, t.held], [4, t.later]] as const).flatMap(([first, held]) => [
        t.streamed.set(widened(t.eight, first)),
        ...x.map((_, i) => sums[i]![j]!.set(f32x4.relaxed_madd(held[i]!, t.streamed, sums[i]![j]!))),
      ]),
    ]),
  ];
  /** The same where x has more rows than there are columns, which are then held, widened once for all rows. More than four rows leave no registers for that. */
  const eightBf16OfMore = (): Node[] => [
    ...w.flatMap((p, j) => [t.eight.set(v128.load(weights.at(p))), t.held[j]!.set(widened(t.eight, 0)), t.later[j]!.set(widened(t.eight, 4))]),
    ...x.flatMap((p, i) => ([[0, t.held], [16, t.later]] as const).flatMap(([offset, held]) => [
      t.streamed.set(v128.load(p, offset)),
      ...w.map((_, j) => sums[i]![j]!.set(f32x4.relaxed_madd(held[j]!, t.streamed, sums[i]![j]!))),
    ])),
  ];
  const packed = dtype === "bf16" && columns > 1;
  const eight = packed && x.length <= 2 ? eightBf16() : packed && x.length <= 4 ? eightBf16OfMore() : [...four(0), ...four(4)];
  const one = multiplyAdd((p) => v128.load32_zero(p), (p) => loadOneWeight[dtype](weights.at(p)));

  const advance = (elements: number): Node[] => [
    ...x.map((p) => p.set(i32.add(p, 4 * elements))),
    ...w.map((p) => p.set(i32.add(p, size * elements))),
  ];
  /** `body` for every `elements` of the next `bytes` of x. */
  const turns = (elements: number, bytes: Node, body: readonly Node[]): Node[] => [
    t.end.set(i32.add(x[0]!, bytes)),
    block(`k_by${elements}_done`, (done) => [
      branchIf(done, i32.ge_u(x[0]!, t.end)),
      loop(`k_by${elements}`, (next) => [...body, ...advance(elements), branchIf(next, i32.lt_u(x[0]!, t.end))]),
    ]),
  ];
  return [
    t.stride.set(i32.shl(argument(args, linearArgs.xStride), 2)),
    x[0]!.set(i32.add(argument(args, linearArgs.x), i32.mul(row, t.stride))),
    ...x.slice(1).map((p, i) => p.set(i32.add(x[i]!, t.stride))),
    t.stride.set(i32.mul(argument(args, linearArgs.k), size)),
    w[0]!.set(i32.add(argument(args, linearArgs.weight), i32.mul(column, t.stride))),
    ...w.slice(1).map((p, j) => p.set(i32.add(w[j]!, t.stride))),
    ...sums.flat().map((s) => s.set(splat.f32(0))),
    ...turns(8, i32.and(t.k, -32), eight),
    when(i32.and(t.k, 16), [...four(0), ...advance(4)]),
    ...turns(1, i32.and(t.k, 15), one),
    ...store(t, columns, args, row, column),
  ];
}

/** A vector of finished sums: how it is made, and what of bias and residual belongs to it, by the address of each row. */
interface Finished {
  readonly value: Local;
  readonly sum: Node;
  readonly bias: Node;
  readonly residual: Node;
  readonly write: readonly Node[];
}

/** Four columns of one row, or two columns of two rows, or a single output to a vector. `t.x` are the addresses of the rows. */
function finished(t: TileLocals, columns: number): readonly Finished[] {
  const { x, sums, bias } = t;
  const everyOther = range(Math.ceil(x.length / 2)).map((i) => 2 * i);
  switch (columns % 4) {
    case 0:
      return x.flatMap((row, i) => range(columns / 4).map((g) => {
        const [a, b, c, d] = sums[i]!.slice(4 * g, 4 * g + 4) as [Local, Local, Local, Local];
        return { value: a, sum: sumsOfFour(a, b, c, d), bias: v128.load(bias, 16 * g), residual: v128.load(row, 16 * g), write: [v128.store(row, a, 16 * g)] };
      }));
    case 2:
      return everyOther.map((i) => {
        const [a, b] = sums[i] as [Local, Local];
        const row = x[i]!, below = x[i + 1];
        const [c, d] = (below ? sums[i + 1] : sums[i]) as [Local, Local];
        return {
          value: a, sum: sumsOfFour(a, b, c, d), bias: v128.load64_splat(bias),
          residual: below ? v128.load64_lane(below, v128.load64_zero(row), 1) : v128.load64_zero(row),
          write: [v128.store64_lane(row, a, 0), ...(below ? [v128.store64_lane(below, a, 1)] : [])],
        };
      });
    default:
      return x.map((row, i) => {
        const a = sums[i]![0]!;
        return { value: a, sum: f32x4.splat(sumOfLanes(a)), bias: v128.load32_splat(bias), residual: v128.load32_splat(row), write: [v128.store32_lane(row, a, 0)] };
      });
  }
}

/** Reduces the accumulators of a tile, adds bias and residual, and writes the outputs. */
function store(t: TileLocals, columns: number, args: Local, row: Local, column: Local): readonly Node[] {
  const vectors = finished(t, columns);
  const rowsOf = (base: Node, stride: Node): Node[] => [
    t.stride.set(i32.shl(stride, 2)),
    t.x[0]!.set(i32.add(i32.add(base, i32.mul(row, t.stride)), i32.shl(column, 2))),
    ...t.x.slice(1).map((p, i) => p.set(i32.add(t.x[i]!, t.stride))),
  ];
  const word = (name: keyof typeof linearArgs): Node => argument(args, linearArgs[name]);
  return [
    ...vectors.map((v) => v.value.set(v.sum)),
    when(word("bias"), [
      t.bias.set(i32.add(word("bias"), i32.shl(column, 2))),
      ...vectors.map((v) => v.value.set(f32x4.add(v.value, v.bias))),
    ]),
    when(word("residual"), [
      ...rowsOf(word("residual"), word("residualStride")),
      ...vectors.map((v) => v.value.set(f32x4.add(v.value, v.residual))),
    ]),
    ...rowsOf(word("out"), word("outStride")),
    ...vectors.flatMap((v) => v.write),
  ];
}

/** Adds the kernel `linear_<dtype>(args, thread)`, args being `linearArgs`. Any K and N from 1, any row count from 0. */
export function linear(m: Module, dtype: WeightType): Func {
  const tiles = range(mostRows).map((i) => tileFunction(m, dtype, i + 1));
  return kernel(m, `linear_${dtype}`, (args, _thread, local) => {
    const rows = local("i32", "rows"), rowBlocks = local("i32", "rowBlocks"), width = local("i32", "pieceColumns"), n = local("i32", "n");
    const piece = local("i32", "piece"), pieces = local("i32", "pieces");
    const row = local("i32", "row"), rowEnd = local("i32", "rowEnd"), whole = local("i32", "wholeEnd"), column = local("i32", "column"), columnEnd = local("i32", "columnEnd");
    const run = (tile: Func): Node => call(tile, args, row, column, columnEnd);
    return [
      rows.set(rowCount(args)),
      n.set(argument(args, linearArgs.n)),
      width.set(argument(args, linearArgs.pieceColumns)),
      rowBlocks.set(i32.div_u(i32.add(rows, pieceRows - 1), pieceRows)),
      pieces.set(i32.mul(rowBlocks, i32.div_u(i32.add(n, i32.sub(width, 1)), width))),
      forEachClaimed(piece, pieces, [
        column.set(i32.mul(i32.div_u(piece, rowBlocks), width)),
        columnEnd.set(least(i32.add(column, width), n)),
        row.set(i32.mul(i32.rem_u(piece, rowBlocks), pieceRows)),
        rowEnd.set(least(i32.add(row, pieceRows), rows)),
        whole.set(i32.sub(rowEnd, i32.rem_u(i32.sub(rowEnd, row), mostRows))),
        forRange(row, row, whole, mostRows, [run(tiles[mostRows - 1]!)]),
        ...tiles.slice(0, mostRows - 1).map((tile, i) => when(i32.eq(i32.sub(rowEnd, whole), i + 1), [run(tile)])),
      ]),
    ];
  });
}
