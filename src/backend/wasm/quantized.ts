/**
 * linear and embed over weights of 8 and 4 bits (backend/quantized.ts), computed from as they lie in their panels (panels.ts).
 *
 * A vector of codes times one splat of four activations is one integer dot product a lane, lane = row of the weight: nothing is summed
 * across lanes, and per block and four outputs there is one conversion and one multiply-add. Integer sums are exact, and outputs are
 * summed block after block in f32, so a row's bits do not depend on the rows beside it or on the shape that computed it:
 *
 *   sum = madd(float(sum over the block of x q), s * xScale, sum); sum = madd(m, xSum, sum); then + bias; then + residual
 *
 * The relaxed dot's second operand counts as unsigned 8 bits on some machines, as signed on others, and only 0..127 is the same on all:
 * `DotOperand` is what `probeDot` found. Codes lie in memory as that wants them, so the result is exact and the same everywhere.
 *
 * The floor of one thread (3.0 GHz Xeon with AVX-VNNI): 6 dot products a nanosecond of 128 bits, 190 GOP/s, or twice that where V8 makes one
 * instruction of two neighbours (compile-wide.node.ts). Knows no ops and no buffers.
 */
import { activationBlock, blockElements, panelRows, quantizedFormats, type QuantizedDType } from "../quantized.ts";
import { branch, branchIf, block, call, f32, f32x4, forRange, i16x8, i32, i32x4, loop, Module, splat, v128, when, type Func, type Local, type Node, type Operand } from "./assembler.ts";
import { argument, forEachClaimed, kernel } from "./kernel.ts";
import {
  codeOffset, dotElements, type DotOperand, groups, hasSignedScales, packedFloatScale, packedFloatShift, packPanels, panelBlockBytes, unpackFour,
} from "./panels.ts";
import { type FloatType, floatTypes, isRounded, roundWeights } from "./round-weights.ts";
import { least, rowCount, rowWords } from "./rows.ts";

/** Finds out by multiplying with 255 and 128, which are -1 and -128 where bytes are signed; pairs of products overflow 16 bits where sums have no more. */
export function probeDot(): DotOperand {
  const m = new Module();
  m.func("probe", { codes: "i32" }, "i32", ({ codes }) => [i32x4.extract_lane(relaxedDot(splat.i32(0x81818181 | 0), i32x4.splat(codes), splat.i32(0)), 0)]);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const { probe } = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } }).exports as { probe(codes: number): number };
  const sums = [0xffffffff, 0x80808080].map((codes) => probe(codes | 0));
  const isSum = (...factors: readonly number[]): boolean => factors.every((factor, i) => sums[i] === 4 * -127 * factor);
  return isSum(255, 128) ? "unsigned8" : isSum(-1, -128) ? "signed8" : "7bits";
}

/** Argument words of `linear_<dtype>`. Addresses and strides in bytes. */
export const quantizedLinearArgs = {
  ...rowWords,
  /** f32 [rows, n]. */
  out: 2, outStride: 3,
  /** int8 activation blocks [rows, blocks]. */
  x: 4, xStride: 5,
  /** Panels, in the memory `weights`. n: rows of the weight; blocks: along K. */
  weight: 6, n: 7, blocks: 8,
  /** f32 [n]; 0: none. */
  bias: 9,
  /** f32 [rows, n], may be `out`; 0: none. */
  residual: 10, residualStride: 11,
  /** Panels of one piece of work: what `piecePanels` says. Any number from 1 gives the same bits. */
  piecePanels: 12,
} as const;

/** Panels of one piece: those of a wide tile, or where they are small as many as make 16 KiB, so that a claim costs little beside the work. */
export function piecePanels(dtype: QuantizedDType, blocks: number): number {
  return widePanels * Math.max(1, Math.floor(16384 / (widePanels * panelBlockBytes(dtype) * blocks)));
}

/** Rows of one piece: their activations stay in the second-level cache while a panel's weights pass. */
const pieceRows = 96;
/** Rows of the largest tile: 6 x 16 outputs are 12 accumulators of 256 bits. */
const mostRows = 6;
/** Vectors of codes in a row of a block. */
const steps = blockElements / dotElements;

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
/** sum + the products of four signed bytes of x and four codes, in each lane. */
export type Dot = (x: Operand, codes: Operand, sum: Operand) => Node;
const relaxedDot: Dot = (x, codes, sum) => i32x4.relaxed_dot_i8x16_i7x16_add_s(x, codes, sum);

/** Integer sums start at minus what `codeOffset` and the format's zero add to them: a multiple of the sum of x, from -128 times that. */
function firstSum(dtype: QuantizedDType, operand: DotOperand, x: Local): Node {
  const fromX = (): Node => v128.load32_splat(x, activationBlock.offset);
  const { zero } = quantizedFormats[dtype], total = zero + codeOffset(dtype, operand);
  switch (total) {
    case 0: return splat.i32(0);
    case 128: return fromX();
    case -128: return i32x4.neg(fromX());
    default: return i32x4.shr_s(fromX(), Math.log2(128 / total));
  }
}

/** One vector of codes as the dot product takes it: which of the block's steps it belongs to, and what power of two its sums count for. */
interface Plane {
  readonly codes: Node;
  readonly step: number;
  readonly shift: 0 | 7;
}

/** The planes of the vector `raw` that was loaded for `step`. */
function planes(dtype: QuantizedDType, operand: DotOperand, raw: Local, step: number): Plane[] {
  if (quantizedFormats[dtype].bits === 4) {
    return [
      { codes: v128.and(raw, splat.i32(0x0f0f0f0f)), step, shift: 0 },
      { codes: v128.and(i16x8.shr_u(raw, 4), splat.i32(0x0f0f0f0f)), step: step + steps / 2, shift: 0 },
    ];
  }
  if (operand !== "7bits") return [{ codes: raw.get, step, shift: 0 }];
  return [
    { codes: v128.and(raw, splat.i32(0x7f7f7f7f)), step, shift: 0 },
    { codes: v128.and(i16x8.shr_u(raw, 7), splat.i32(0x01010101)), step, shift: 7 },
  ];
}

/**
 * Panels of a wide tile: few rows wait for memory, which gives four streams side by side 1.3 times as fast as one. From more rows than
 * `fewRows` on the weights come from the cache, and a single panel's sums fit the registers better.
 */
const widePanels = 4, fewRows = 40;

/**
 * `rows<R>x<P>_<dtype>(args, row, column)`: R rows from `row` on, times P panels, the columns from `column` on. What of a panel is behind
 * column n is computed and dropped; only a tile of one row and one panel does that.
 */
function tileFunction(m: Module, dtype: QuantizedDType, operand: DotOperand, dot: Dot, rows: number, panels: number): Func {
  const { bits, hasMin } = quantizedFormats[dtype];
  const loads = bits === 8 ? steps : steps / 2;
  const split = bits === 8 && operand === "7bits";
  const scalesAt = panelRows * (bits === 8 ? blockElements : blockElements / 2), minsAt = scalesAt + 2 * panelRows;
  const weights = m.memory("weights");
  return m.func(`rows${rows}x${panels}_${dtype}`, { args: "i32", row: "i32", column: "i32" }, "none", ({ args, row, column }, local) => {
    const word = (name: keyof typeof quantizedLinearArgs): Node => argument(args, quantizedLinearArgs[name]);
    const vectors = (name: string): Local[] => range(groups).map((g) => local("v128", `${name}${g}`));
    const stride = local("i32", "stride"), end = local("i32", "end"), out = local("i32", "out"), extra = local("i32", "extra");
    const x = range(rows).map((r) => local("i32", `x${r}`)), w = range(panels).map((p) => local("i32", `w${p}`));
    const sums = range(rows).map((r) => range(panels).map((p) => vectors(`sum${r}_${p}_`)));
    const whole = range(rows).map((r) => vectors(`whole${r}_`)), upper = split ? range(rows).map((r) => vectors(`upper${r}_`)) : [];
    const raw = vectors("codes"), plane = vectors("plane"), scale = vectors("scale"), min = hasMin ? vectors("min") : [], four = local("v128", "four");

    /** One block of one panel: integer sums of all its codes, then the scales. */
    const oneBlock = (p: number): Node[] => [
      ...whole.flatMap((row, r) => [four.set(firstSum(dtype, operand, x[r]!)), ...row.map((v) => v.set(four))]),
      ...upper.flat().map((v) => v.set(splat.i32(0))),
      ...range(loads).flatMap((step) => [
        ...raw.map((v, g) => v.set(v128.load(weights.at(w[p]!), 16 * (step * groups + g)))),
        ...planes(dtype, operand, raw[0]!, step).flatMap(({ step: at, shift, codes }, i) => {
          const unpacked = codes.op !== "get";
          const held = unpacked ? plane : raw, into = shift === 0 ? whole : upper;
          return [
            ...(unpacked ? plane.map((v, g) => v.set(planes(dtype, operand, raw[g]!, step)[i]!.codes)) : []),
            ...x.flatMap((from, r) => [
              four.set(v128.load32_splat(from, dotElements * at)),
              ...held.map((v, g) => into[r]![g]!.set(dot(four, v, into[r]![g]!))),
            ]),
          ];
        }),
      ]),
      ...scale.map((v, g) => v.set(unpackFour(weights.at(w[p]!), scalesAt + 8 * g, hasSignedScales(dtype)))),
      ...min.map((v, g) => v.set(unpackFour(weights.at(w[p]!), minsAt + 8 * g, true))),
      ...sums.flatMap((row, r) => [
        four.set(v128.load32_splat(x[r]!, activationBlock.scale)),
        ...row[p]!.map((sum, g) => {
          const total = split ? i32x4.add(whole[r]![g]!, i32x4.shl(upper[r]![g]!, 7)) : whole[r]![g]!;
          return sum.set(f32x4.relaxed_madd(f32x4.convert_i32x4_s(total), f32x4.mul(scale[g]!, four), sum));
        }),
        ...(hasMin ? [four.set(v128.load32_splat(x[r]!, activationBlock.sum)), ...row[p]!.map((sum, g) => sum.set(f32x4.relaxed_madd(min[g]!, four, sum)))] : []),
      ]),
      w[p]!.set(i32.add(w[p]!, panelBlockBytes(dtype))),
    ];

    /** The sums plus bias and residual, to memory. */
    const storeWhole = (): Node[] => [
      when(word("bias"), [
        extra.set(i32.add(word("bias"), i32.shl(column, 2))),
        ...sums[0]!.flat().flatMap((_, i) => [four.set(v128.load(extra, 16 * i)), ...sums.map((row) => row.flat()[i]!.set(f32x4.add(row.flat()[i]!, four)))]),
      ]),
      when(word("residual"), [
        extra.set(i32.add(i32.add(word("residual"), i32.mul(row, word("residualStride"))), i32.shl(column, 2))),
        ...sums.flatMap((row) => [...row.flat().map((v, i) => v.set(f32x4.add(v, v128.load(extra, 16 * i)))), extra.set(i32.add(extra, word("residualStride")))]),
      ]),
      // Neighbours from one address: what V8 makes vectors of 256 bits from.
      ...sums.flatMap((row) => [...row.flat().map((v, i) => v128.store(out, v, 16 * i)), out.set(i32.add(out, word("outStride")))]),
    ];
    /** Of one row, column by column, those that there are. */
    const storePart = (): Node[] => {
      const value = local("f32", "value");
      return [
        extra.set(i32.add(i32.add(word("residual"), i32.mul(row, word("residualStride"))), i32.shl(column, 2))),
        ...range(panelRows).map((i) => when(i32.lt_s(i32.add(column, i), word("n")), [
          value.set(f32x4.extract_lane(sums[0]![0]![i >> 2]!, i & 3)),
          when(word("bias"), [value.set(f32.add(value, f32.load(i32.add(word("bias"), i32.shl(column, 2)), 4 * i)))]),
          when(word("residual"), [value.set(f32.add(value, f32.load(extra, 4 * i)))]),
          f32.store(out, value, 4 * i),
        ])),
      ];
    };
    return [
      stride.set(word("xStride")),
      x[0]!.set(i32.add(word("x"), i32.mul(row, stride))),
      ...x.slice(1).map((p, r) => p.set(i32.add(x[r]!, stride))),
      end.set(i32.add(x[0]!, i32.mul(word("blocks"), activationBlock.bytes))),
      stride.set(i32.mul(word("blocks"), panelBlockBytes(dtype))),
      w[0]!.set(i32.add(word("weight"), i32.mul(i32.shr_u(column, Math.log2(panelRows)), stride))),
      ...w.slice(1).map((p, i) => p.set(i32.add(w[i]!, stride))),
      out.set(i32.add(i32.add(word("out"), i32.mul(row, word("outStride"))), i32.shl(column, 2))),
      ...sums.flat(2).map((v) => v.set(splat.f32(0))),
      loop("next_block", (next) => [
        ...range(panels).flatMap(oneBlock),
        ...x.map((p) => p.set(i32.add(p, activationBlock.bytes))),
        branchIf(next, i32.lt_u(x[0]!, end)),
      ]),
      ...(rows * panels > 1 ? storeWhole() : [when(i32.le_s(i32.add(column, panelRows), word("n")), storeWhole(), storePart())]),
    ];
  }, { internal: true });
}

/** The kernels of one quantised dtype: `linear_<dtype>`, `embed_<dtype>` and `pack_<dtype>`. `dot` must do what `operand` says. */
export function quantizedModule(dtype: QuantizedDType, operand: DotOperand, dot: Dot = relaxedDot): Module {
  const m = new Module();
  quantizedLinear(m, dtype, operand, dot);
  quantizedEmbed(m, dtype, operand);
  packPanels(m, dtype, operand);
  if (isRounded(dtype)) for (const type of Object.keys(floatTypes) as FloatType[]) roundWeights(m, dtype, type);
  return m;
}

/** Adds the kernel `linear_<dtype>(args, thread)`, args being `quantizedLinearArgs`. Any N and number of blocks from 1, any row count from 0. */
export function quantizedLinear(m: Module, dtype: QuantizedDType, operand: DotOperand, dot: Dot): Func {
  const tiles = range(mostRows).map((i) => tileFunction(m, dtype, operand, dot, i + 1, 1));
  const wide = range(mostRows).map((i) => tileFunction(m, dtype, operand, dot, i + 1, widePanels));
  return kernel(m, `linear_${dtype}`, (args, _thread, local) => {
    const word = (name: keyof typeof quantizedLinearArgs): Node => argument(args, quantizedLinearArgs[name]);
    const rows = local("i32", "rows"), rowBlocks = local("i32", "rowBlocks"), width = local("i32", "pieceColumns"), n = local("i32", "n");
    const piece = local("i32", "piece"), pieces = local("i32", "pieces"), columnEnd = local("i32", "columnEnd"), column = local("i32", "column"), last = local("i32", "last");
    const first = local("i32", "firstRow"), row = local("i32", "row"), rowEnd = local("i32", "rowEnd"), whole = local("i32", "wholeEnd");
    /** The columns [column, last) by `panels` panels at a time, as long as there are so many. */
    const overPanels = (tiles: readonly Func[], panels: number): Node => block(`by${panels}_done`, (done) => [
      loop(`by${panels}`, (next) => [
        branchIf(done, i32.gt_s(i32.add(column, panels * panelRows), last)),
        ...run(tiles),
        column.set(i32.add(column, panels * panelRows)),
        branch(next),
      ]),
    ]);
    const run = (tiles: readonly Func[]): Node[] => [
      forRange(row, first, whole, mostRows, [call(tiles[mostRows - 1]!, args, row, column)]),
      row.set(whole),
      ...tiles.slice(0, mostRows - 1).map((tile, i) => when(i32.eq(i32.sub(rowEnd, whole), i + 1), [call(tile, args, row, column)])),
    ];
    return [
      rows.set(rowCount(args)),
      n.set(word("n")),
      width.set(i32.mul(word("piecePanels"), panelRows)),
      rowBlocks.set(i32.div_u(i32.add(rows, pieceRows - 1), pieceRows)),
      pieces.set(i32.mul(rowBlocks, i32.div_u(i32.add(n, i32.sub(width, 1)), width))),
      forEachClaimed(piece, pieces, [
        column.set(i32.mul(i32.div_u(piece, rowBlocks), width)),
        columnEnd.set(least(i32.add(column, width), n)),
        last.set(columnEnd),
        first.set(i32.mul(i32.rem_u(piece, rowBlocks), pieceRows)),
        rowEnd.set(least(i32.add(first, pieceRows), rows)),
        whole.set(i32.sub(rowEnd, i32.rem_u(i32.sub(rowEnd, first), mostRows))),
        when(i32.le_s(i32.sub(rowEnd, first), fewRows), [overPanels(wide, widePanels)]),
        overPanels(tiles, 1),
        when(i32.lt_s(column, columnEnd), [forRange(row, first, rowEnd, 1, [call(tiles[0]!, args, row, column)])]),
      ]),
    ];
  });
}

/** out[t, :] = table[tokens[t], :] * scale. table: panels, in the memory `weights`; tokens: i32 [rows]; scale: f32; outStride in bytes. */
export const quantizedEmbedArgs = { ...rowWords, out: 2, outStride: 3, table: 4, tokens: 5, columns: 6, scale: 7 } as const;

/** Adds `embed_<dtype>`. */
export function quantizedEmbed(m: Module, dtype: QuantizedDType, operand: DotOperand): Func {
  const { bits, hasMin, zero } = quantizedFormats[dtype];
  const codesBytes = panelRows * (bits === 8 ? blockElements : blockElements / 2);
  /** Bytes between a row's codes of one step and of the next. */
  const stepBytes = panelRows * dotElements;
  const weights = m.memory("weights");
  return kernel(m, `embed_${dtype}`, (args, _thread, local) => {
    const word = (name: keyof typeof quantizedEmbedArgs): Node => argument(args, quantizedEmbedArgs[name]);
    const row = local("i32", "row"), rows = local("i32", "rows"), token = local("i32", "token"), lane = local("i32", "lane");
    const from = local("i32", "from"), to = local("i32", "to"), end = local("i32", "end"), k = local("i32", "k"), code = local("i32", "code");
    const scale = local("f32", "scale"), min = local("f32", "min");
    const factor = f32.load(args, 4 * quantizedEmbedArgs.scale);
    /** This row's packed float of those from `offset` on. */
    const float = (offset: number, signed: boolean): Node => {
      const raw = i32.load16_u(weights.at(i32.add(from, i32.shl(lane, 1))), offset);
      const magnitude = f32.mul(f32.reinterpret_i32(i32.shl(i32.and(raw, 0x7fff), packedFloatShift)), packedFloatScale);
      return signed ? f32.mul(magnitude, f32.convert_i32_s(i32.sub(1, i32.and(i32.shr_u(raw, 14), 2)))) : magnitude;
    };
    const step = i32.and(i32.shr_u(k, 2), bits === 8 ? steps - 1 : steps / 2 - 1);
    const byte = i32.load8_u(weights.at(i32.add(i32.add(from, i32.shl(lane, 2)), i32.add(i32.mul(step, stepBytes), i32.and(k, 3)))));
    const lifted = bits === 8 ? byte : i32.and(i32.shr_u(byte, i32.shl(i32.shr_u(k, 4), 2)), 15);
    /** As it lies in memory a code of 8 bits is unsigned, or signed with 128 taken from uint8. */
    const offset = codeOffset(dtype, operand);
    const signedByte = bits === 8 && operand === "signed8";
    return [
      rows.set(rowCount(args)),
      forEachClaimed(row, rows, [
        token.set(i32.load(i32.add(word("tokens"), i32.shl(row, 2)))),
        lane.set(i32.and(token, panelRows - 1)),
        to.set(i32.add(word("out"), i32.mul(row, word("outStride")))),
        end.set(i32.add(to, i32.shl(word("columns"), 2))),
        from.set(i32.add(word("table"), i32.mul(
          i32.mul(i32.shr_u(token, Math.log2(panelRows)), i32.shr_u(i32.add(word("columns"), blockElements - 1), Math.log2(blockElements))), panelBlockBytes(dtype),
        ))),
        loop("next_block", (next) => [
          scale.set(float(codesBytes, hasSignedScales(dtype))),
          ...(hasMin ? [min.set(float(codesBytes + 2 * panelRows, true))] : []),
          k.set(0),
          loop("next_k", (nextK) => [
            code.set(signedByte ? i32.shr_s(i32.shl(lifted, 24), 24) : lifted),
            code.set(i32.sub(code, offset + zero)),
            f32.store(to, f32.mul(hasMin ? f32.add(f32.mul(f32.convert_i32_s(code), scale), min) : f32.mul(f32.convert_i32_s(code), scale), factor)),
            to.set(i32.add(to, 4)),
            k.set(i32.add(k, 1)),
            branchIf(nextK, i32.and(i32.lt_u(k, blockElements), i32.lt_u(to, end))),
          ]),
          from.set(i32.add(from, panelBlockBytes(dtype))),
          branchIf(next, i32.lt_u(to, end)),
        ]),
      ]),
    ];
  });
}
