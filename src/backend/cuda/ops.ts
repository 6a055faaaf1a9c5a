/**
 * The fixed ops on the GPU: each call is checked and becomes a command, which packs a kernel's parameters and launches it for a size of step.
 *
 * Launch grids come from the size that a command is given, perhaps rounded up; kernels read from the header how many rows there are. What is
 * recorded, captured and replayed is not known here, nor is attention.
 */
import { invariant, UsageError } from "../../core/errors.ts";
import { type Activation, type BatchInputs, type Buffer, headerWord, type KvCache, type KvCacheFormat, type Ops, type SamplingOps, type StepSize, type WeightDType } from "../backend.ts";
import type { Matmul } from "./blas.ts";
import type { KernelFunction, LaunchShape } from "./device.ts";
import type { BehindPart, Joined, LinearPart, NormPart, Part, RopePart } from "./fuse.ts";
import { activationNumber, launchLinear, libraryTakes, type LinearCall, type LinearMachine, linearWorkspace, modulesOfFamily, type MostRowsFused, mostRowsFused, planLinear } from "./linear.ts";
import { addressOf, own } from "./memory.ts";
import type { Element, FindKernel, ModuleKind, ModuleName } from "./modules.ts";
import { Params } from "./params.ts";

/** Launches an op for a step of this size or less. May be captured. */
export type Command = (step: StepSize, kernel: FindKernel) => void;

export interface OpsContext {
  readonly device: {
    readonly numSms: number;
    readonly maxSharedBytes: number;
    alloc(bytes: number): number;
    launch(f: KernelFunction, shape: LaunchShape, params: Uint8Array): void;
  };
  /** cuBLASLt, where it is installed. */
  readonly blas: { matmul(m: Matmul): void } | undefined;
  /** Whether a row's bits may not depend on how many rows a step has; false when left out. */
  readonly deterministic?: boolean;
  /** Up to how many rows products do their neighbours' work; as measured when left out. */
  readonly mostRowsFused?: MostRowsFused;
  /** Takes a command: to run in its turn, once these modules are loaded, or to be recorded; there `fuse` may join it with its neighbours by what `part` says of it. */
  submit(needs: readonly ModuleName[], command: Command, part?: Part): void;
}

const elementOf = (dtype: WeightDType | Activation["dtype"], what: string): Element => {
  if (dtype === "bf16" || dtype === "f16") return dtype;
  throw new UsageError(`${what} is ${dtype ?? "f32"}: the cuda backend takes bf16 and f16 there`);
};
const isWide = ({ dtype }: Activation): boolean => dtype === undefined || dtype === "f32";
const rowsWord = ({ rows }: Activation): number => (rows === "tokens" ? headerWord.numTokens : headerWord.numLogits);
/** The most rows that an activation has room for. */
const capacity = (a: Activation): number => Math.floor((a.data.bytes / (isWide(a) ? 4 : 2) - a.columns) / a.stride) + 1;
/** Rows to launch for: the step's, which may be rounded up or not known, within what there is room for. */
const stepRows = (a: Activation, step: StepSize): number => Math.min(a.rows === "tokens" ? step.numTokens : step.numLogits, capacity(a));
const ceilDiv = (a: number, b: number): number => Math.ceil(a / b);

const threads = 256;
/** Columns that a block of 256 threads takes of a row, eight a thread. */
const columnsPerBlock = 8 * threads;
const ropeThreads = 128;
const cacheFormatNumber: Readonly<Record<KvCacheFormat, number>> = { f32: 0, bf16: 1, f16: 2 };

/** Rows as kernels move them, sixteen bytes at a time. */
function aligned(what: string, a: Activation): void {
  const bytes = isWide(a) ? 4 : 2;
  invariant(own(a.data).address % 16 === 0 && (a.stride * bytes) % 16 === 0 && (a.columns * bytes) % 16 === 0, `${what}: rows of ${a.columns} columns, ${a.stride} apart, do not lie on 16 bytes`);
}
function wide(what: string, a: Activation): void {
  invariant(isWide(a), `${what} is ${a.dtype}, not f32`);
}

/** All ops but attention and what becomes of logits, as commands given to `submit`. */
export function createOps(context: OpsContext): Omit<Ops, "attention" | keyof SamplingOps> {
  const { device, blas } = context;
  const machine: Omit<LinearMachine, "library"> = { numSms: device.numSms, maxSharedBytes: device.maxSharedBytes, deterministic: context.deterministic ?? false };
  const mostFused = context.mostRowsFused ?? mostRowsFused, workspace = device.alloc(linearWorkspace.bytes);
  /** Kernels that know only f32 are in the modules of both elements: the one in use is taken. */
  let element: Element = "bf16";

  /** Submits a kernel with a grid that depends on the rows of `bound`; `most`: what it reads before it knows how many there are has no more. */
  const submit = (kind: ModuleKind, of: Element, kernel: string, bound: Activation, shape: (rows: number) => LaunchShape, params: Params, part?: Part, most = Infinity): void => {
    const bytes = params.bytes();
    element = of;
    context.submit([{ kind, element: of }], (step, find) => {
      const rows = Math.min(stepRows(bound, step), most);
      if (rows > 0) device.launch(find(`${kernel}_${of}`), { ...shape(rows), dependent: true }, bytes);
    }, part);
  };
  const submitElementwise = (of: Element, kernel: string, bound: Activation, p: { out: Buffer; outStride: number; from?: Buffer; fromStride?: number; index?: Buffer; batch: BatchInputs; columns: number; activation?: number; factor?: number }, part?: Part): void =>
    submit("elementwise", of, kernel, bound, (rows) => ({ grid: [ceilDiv(p.columns, columnsPerBlock), rows, 1], block: threads }),
      new Params().ptr(addressOf(p.batch.header)).ptr(addressOf(p.out)).ptr(addressOf(p.from)).ptr(addressOf(p.index))
        .i32(rowsWord(bound)).i32(p.outStride).i32(p.fromStride ?? 0).i32(p.columns).i32(p.activation ?? 0).f32(p.factor ?? 0), part);

  return {
    embed({ out, table, batch, scale }) {
      wide("embed's out", out);
      aligned("embed's out", out);
      invariant(table.columns === out.columns, `embed of ${table.columns} to ${out.columns} columns`);
      invariant(out.columns % 8 === 0, `embed of ${out.columns} columns, which are no multiple of 8`);
      submitElementwise(elementOf(table.dtype, "the embedding"), "embed", out, { out: out.data, outStride: out.stride, from: table.data, fromStride: table.columns, index: batch.tokens, batch, columns: out.columns, factor: scale });
    },

    rmsNorm({ out, x, weight, epsilon, residual, batch }) {
      wide("rmsNorm's x", x);
      if (residual) wide("rmsNorm's residual", residual);
      for (const [what, matrix] of [["out", out], ["x", x], ["residual", residual]] as const) if (matrix) aligned(`rmsNorm's ${what}`, matrix);
      invariant(x.columns === out.columns && weight.bytes >= 4 * x.columns, `rmsNorm of ${x.columns} to ${out.columns} columns, ${weight.bytes} bytes of weight`);
      const part: NormPart | undefined = isWide(out) || residual ? undefined : { kind: "norm", x, out, weight: addressOf(weight), epsilon };
      submit("norm", isWide(out) ? element : elementOf(out.dtype, "rmsNorm's out"), isWide(out) ? "rmsNormWide" : "rmsNorm", out, (rows) => ({ grid: [rows, 1, 1], block: threads }),
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(out.data)).ptr(addressOf(x.data)).ptr(addressOf(weight)).ptr(addressOf(residual?.data))
          .i32(rowsWord(out)).i32(out.stride).i32(x.stride).i32(residual?.stride ?? 0).i32(out.columns).f32(epsilon), part, capacity(x));
    },

    quantize() {
      throw new UsageError("the cuda backend has no int8 activations: load the model with weights of bf16 or f16");
    },

    linear({ out, x, weight, bias, residual, batch }) {
      const { dtype, rows: n, columns: k } = weight, of = elementOf(dtype, "a weight matrix");
      invariant(x.columns === k && out.columns === n, `linear of ${x.columns} by ${n} x ${k} to ${out.columns}`);
      invariant(x.dtype === of && (isWide(out) || out.dtype === of), `linear of ${x.dtype ?? "f32"} by ${of} to ${out.dtype ?? "f32"}`);
      if (residual) wide("linear's residual", residual);
      aligned("linear's x", x);
      invariant(own(weight.data).address % 16 === 0, "a weight matrix does not lie on 16 bytes");
      const call: Omit<LinearCall, "rows"> = {
        element: of, header: addressOf(batch.header), rowsWord: rowsWord(out), n, k, out: addressOf(out.data), outType: isWide(out) ? "f32" : of, outStride: out.stride,
        x: addressOf(x.data), xStride: x.stride, weight: addressOf(weight.data), bias: addressOf(bias), residual: addressOf(residual?.data), residualStride: residual?.stride ?? 0,
      };
      const here: LinearMachine = { ...machine, library: blas !== undefined && libraryTakes(call) };
      const plan = (rows: number) => planLinear({ rows, n, k }, here)!;
      const kinds = new Set<ModuleKind>(), most = Math.min(capacity(out), capacity(x)), rowsOf = (step: StepSize): number => Math.min(stepRows(out, step), most);
      for (let rows = 1; rows < 2 * most; rows *= 2) for (const kind of modulesOfFamily[plan(Math.min(rows, most)).family]) kinds.add(kind);
      element = of;
      const launch = (step: StepSize, kernel: FindKernel, { norm, behind }: Joined = {}): void => {
        const rows = Math.min(rowsOf(step), norm ? capacity(norm.x) : Infinity, behind?.kind === "rope" ? behind.mostRows : Infinity);
        if (rows === 0) return;
        const from = norm && { x: addressOf(norm.x.data), xStride: norm.x.stride, norm: { weight: norm.weight, epsilon: norm.epsilon, out: addressOf(norm.out.data), outStride: norm.out.stride } };
        launchLinear({ ...call, rows, ...from, ...(behind && callOf(behind)) }, plan(rows), { device, blas, workspace, kernel });
      };
      const part: LinearPart = {
        kind: "linear", x, out, needs: [{ kind: "fused", element: of }], launch,
        takes(step) {
          const rows = rowsOf(step), few = rows > 0 && plan(rows).kernel === "linear8", pairs = few && !residual && !isWide(out);
          return { norm: few && rows <= mostFused.norm, gated: pairs && rows <= mostFused.gate, rope: pairs && rows <= mostFused.rope };
        },
      };
      context.submit([...kinds].map((kind) => ({ kind, element: of })), launch, plan(1).kernel === "linear8" ? part : undefined);
    },

    ropeAndCache({ qkv, numQueryHeads, key, value, rotary, rotaryDim, qNorm, kNorm, epsilon, batch }) {
      const { headDim, numHeads, pageSize } = key, half = rotaryDim / 2, of = elementOf(qkv.dtype, "qkv");
      invariant(qkv.columns === (numQueryHeads + numHeads) * headDim + numHeads * value.headDim, `a packed row of ${qkv.columns} columns`);
      invariant(Number.isInteger(half) && rotaryDim <= headDim, `${rotaryDim} of ${headDim} elements rotate`);
      invariant(value.numHeads === numHeads && value.pageSize === pageSize, "keys and values are cached in the same pages");
      const vectors = [half, headDim, value.headDim, qkv.stride].every((size) => size % 8 === 0) && [qkv.data, key.data, value.data, rotary].every((buffer) => own(buffer).address % 16 === 0);
      const V = vectors ? 8 : 1, pieces = Math.max(half / V + (headDim - rotaryDim) / V, value.headDim / V / 2);
      const group = Math.min(32, 2 ** Math.ceil(Math.log2(pieces)));
      const blocks = ceilDiv(numQueryHeads + 2 * numHeads, ropeThreads / group), mostRows = Math.floor(Math.min(batch.slots.bytes, batch.positions.bytes) / 4);
      // A product turns whole heads, 8 pairs at a time, and keeps what it writes as it writes it.
      const joins = rotaryDim === headDim && value.headDim === headDim && headDim % 16 === 0 && !qNorm && !kNorm && key.format === of && value.format === of;
      const part: RopePart | undefined = !joins ? undefined
        : { kind: "rope", qkv, key, value, positions: addressOf(batch.positions), slots: addressOf(batch.slots), rotary: addressOf(rotary), numQueryHeads, mostRows };
      submit("rope", of, vectors ? "ropeAndCache" : "ropeAndCacheOdd", qkv, (rows) => ({ grid: [blocks, rows, 1], block: ropeThreads }),
        new Params().ptr(addressOf(batch.header)).ptr(addressOf(qkv.data)).ptr(addressOf(batch.positions)).ptr(addressOf(batch.slots)).ptr(addressOf(rotary))
          .ptr(addressOf(qNorm)).ptr(addressOf(kNorm)).ptr(addressOf(key.data)).ptr(addressOf(value.data))
          .i32(rowsWord(qkv)).i32(qkv.stride).i32(numQueryHeads).i32(numHeads).i32(headDim).i32(value.headDim).i32(half).i32(pageSize)
          .i32(formatOf(key)).i32(formatOf(value)).i32(group).f32(epsilon), part, mostRows);
    },

    gatedActivation({ out, gateUp, activation, batch }) {
      const of = elementOf(gateUp.dtype, "gateUp");
      invariant(out.dtype === of && gateUp.columns === 2 * out.columns, `gatedActivation of ${gateUp.dtype} [${gateUp.columns}] to ${out.dtype ?? "f32"} [${out.columns}]`);
      aligned("gatedActivation's out", out);
      aligned("gateUp", gateUp);
      submitElementwise(of, "gatedActivation", out, { out: out.data, outStride: out.stride, from: gateUp.data, fromStride: gateUp.stride, batch, columns: out.columns, activation: activationNumber[activation] },
        { kind: "gated", gateUp, out, activation });
    },

    gatherRows({ out, x, batch }) {
      wide("gatherRows' x", x);
      wide("gatherRows' out", out);
      submitElementwise(element, "gatherRows", out, { out: out.data, outStride: out.stride, from: x.data, fromStride: x.stride, index: batch.logitRows, batch, columns: out.columns });
    },

    softCap({ x, cap, batch }) {
      wide("softCap's x", x);
      submitElementwise(element, "softCap", x, { out: x.data, outStride: x.stride, batch, columns: x.columns, factor: cap });
    },
  };
}

const formatOf = (cache: KvCache): number => cacheFormatNumber[cache.format];

/** What a product is told of the part behind it. */
function callOf(part: BehindPart): Pick<LinearCall, "gate" | "rope"> {
  if (part.kind === "gated") return { gate: { activation: part.activation, out: addressOf(part.out.data), outStride: part.out.stride } };
  const { positions, slots, rotary, key, value, numQueryHeads } = part;
  return { rope: { positions, slots, rotary, key: addressOf(key.data), value: addressOf(value.data), numQueryHeads, numKvHeads: key.numHeads, headDim: key.headDim, pageSize: key.pageSize } };
}
