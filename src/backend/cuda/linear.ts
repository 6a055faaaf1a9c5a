/**
 * linear on the GPU: which kernel a product of so many rows takes, how its work is shared among blocks, and its launch.
 *
 * `planLinear` is a function of sizes alone, so it can be printed and tested without a GPU. The kernels: kernels/linear-skinny.cu for few rows,
 * beyond them cuBLASLt where it is installed, else kernels/linear-tiled.cu. docs/backends.md has the table, and the order of sums of each.
 */
import { invariant } from "../../core/errors.ts";
import type { ActivationFunction } from "../backend.ts";
import type { Matmul } from "./blas.ts";
import type { KernelFunction, LaunchShape } from "./device.ts";
import type { Element, ModuleKind } from "./modules.ts";
import { Params } from "./params.ts";

/** Sizes of out[rows, n] = x[rows, k] weight[n, k]^T. */
export interface LinearSize {
  readonly rows: number;
  readonly n: number;
  readonly k: number;
}

/** What a plan has to know of the GPU, and whether the library may be used. */
export interface LinearMachine {
  readonly numSms: number;
  readonly maxSharedBytes: number;
  readonly library: boolean;
  /** Whether a row's bits may not depend on how many rows there are. */
  readonly deterministic: boolean;
}

export type LinearFamily = "skinny" | "tiled" | "library";

/**
 * Up to how many rows each family is used; the first that can is taken. Measured on an H100: `wholeX`, if a block has room for x with all its columns,
 * as splitting a sum that is not short of blocks costs a sixth and more.
 */
export const linearRules: readonly { readonly rows: number; readonly family: LinearFamily; readonly wholeX?: true }[] = [
  { rows: 16, family: "skinny", wholeX: true },
  { rows: Infinity, family: "library" },
  { rows: 8, family: "skinny" },
  { rows: Infinity, family: "tiled" },
];

export interface LinearPlan {
  readonly family: LinearFamily;
  /** Without the element's suffix; "cublasLt" for the library. */
  readonly kernel: string;
  /** Tiles of out, and over how many blocks the sum of one is split, `chunk` columns of k each. */
  readonly tiles: readonly [rows: number, columns: number];
  readonly splits: number;
  readonly chunk: number;
  /** Of the skinny kernel's ring: pieces of the weight on their way to a warp. */
  readonly depth?: number;
  readonly shape: LaunchShape;
  /** What the splits of all tiles hand each other. */
  readonly partialBytes: number;
  /** Rows of one launch: more are more launches. */
  readonly rowsAtOnce: number;
}

/** Memory that the splits of a launch share: sums, and a counter for each tile. One launch at a time uses it. */
export const linearWorkspace = { partialBytes: 32 * 2 ** 20, maxTiles: 16384, get bytes(): number { return this.partialBytes + 4 * this.maxTiles; } } as const;

/** What a plan may be told instead of choosing it. */
interface Only {
  readonly splits?: number;
  readonly depth?: number;
}

const ceilDiv = (a: number, b: number): number => Math.ceil(a / b);
const mostSplits = 16;

/** Numbers of kernels/linear-skinny.cu. `pieceBytes` (of all warps, a step of the ring's depth) and `sumBytes` (for 8 rows) are its shared memory beside x. */
const skinny = { warps: 8, tileRows: 16, pieceBytes: 8 * 2048, sumBytes: 2 * 8 * 160 * 4, flagBytes: 128, xPadding: 32 } as const;
/** Depths of the ring, best first, and what a product takes longer with fewer pieces on their way, in columns of k; measured on an H100 at 8 rows. */
const skinnyDepths = [{ depth: 6, cost: 0 }, { depth: 5, cost: 70 }, { depth: 4, cost: 350 }, { depth: 3, cost: 700 }] as const;
/** Rows that the kernels take, and their names. */
const skinnyKernels = [{ rows: 8, kernel: "linear8" }, { rows: 16, kernel: "linear16" }] as const;
/** The most rows of a product that does its neighbours' work too. A norm is computed anew by every block, so it soon costs more than a kernel of its own. */
export interface MostRowsFused {
  readonly norm: number;
  readonly gate: number;
  readonly rope: number;
}
/** As measured on an H100. */
export const mostRowsFused: MostRowsFused = { norm: 2, gate: 8, rope: 8 };
/** The kernels of kernels/linear-tiled.cu: rows and columns of a tile, pieces in shared memory. A block has 128 threads, two fit an SM. */
const tiledKernels = [
  { rows: 64, kernel: "linearTile64", tileRows: 64, tileColumns: 128, stages: 4 },
  { rows: Infinity, kernel: "linearTile128", tileRows: 128, tileColumns: 128, stages: 3 },
] as const;

/** `k` in `splits` chunks of whole 64 columns; undefined where that many would leave an empty one. */
function chunkOf(k: number, splits: number): number | undefined {
  const chunk = 64 * ceilDiv(ceilDiv(k, splits), 64);
  return ceilDiv(k, chunk) === splits ? chunk : undefined;
}

/** The cheapest of plans with 1, 2, ... splits, or of those with `only` so many, by a cost in columns of k that a block reads one after the other. */
function cheapest(k: number, only: number | undefined, plan: (splits: number, chunk: number) => { readonly plan: LinearPlan; readonly cost: number } | undefined): LinearPlan | undefined {
  let best: { readonly plan: LinearPlan; readonly cost: number } | undefined;
  for (let splits = 1; splits <= mostSplits; splits++) {
    const chunk = only === undefined || only === splits ? chunkOf(k, splits) : undefined, found = chunk === undefined ? undefined : plan(splits, chunk);
    if (found && (!best || found.cost < best.cost) && (splits === 1 || fitsWorkspace(found.plan))) best = found;
  }
  return best?.plan;
}
const fitsWorkspace = ({ tiles, partialBytes }: LinearPlan): boolean => partialBytes <= linearWorkspace.partialBytes && tiles[0] * tiles[1] <= linearWorkspace.maxTiles;

/** One block an SM, which walks tiles. A tile that pairs columns has 8 low and 8 high ones, so there are as many tiles as without. */
function planSkinny({ rows, n, k }: LinearSize, { numSms, maxSharedBytes }: LinearMachine, only: Only = {}): LinearPlan | undefined {
  const kernel = skinnyKernels.find((kernel) => rows <= kernel.rows);
  if (!kernel) return undefined;
  const tiles = ceilDiv(n, skinny.tileRows);
  return cheapest(k, only.splits, (splits, chunk) => {
    const beside = (kernel.rows / 8) * skinny.sumBytes + skinny.flagBytes + 2 * rows * (chunk + skinny.xPadding);
    const ring = skinnyDepths.find(({ depth }) => (only.depth === undefined || only.depth === depth) && depth * skinny.pieceBytes + beside <= maxSharedBytes);
    if (!ring || splits > numSms) return undefined;
    const sharedBytes = Math.max(ring.depth * skinny.pieceBytes + beside, 16 + 16 * ceilDiv(maxSharedBytes, 32)); // two blocks never share an SM
    const columns = Math.min(tiles, Math.floor(numSms / splits));
    // Tiles one after the other, whose sums are handed over; x on its way in; and a ring that is less deep.
    const cost = ceilDiv(tiles, columns) * (chunk + (splits > 1 ? 850 : 32)) + (rows * chunk) / 64 + (splits > 1 ? 500 : 0) + ring.cost;
    const plan: LinearPlan = {
      family: "skinny", kernel: kernel.kernel, tiles: [1, tiles], splits, chunk, depth: ring.depth, rowsAtOnce: kernel.rows, partialBytes: splits > 1 ? splits * tiles * kernel.rows * skinny.tileRows * 4 : 0,
      shape: { grid: [columns, splits, 1], block: 32 * skinny.warps, sharedBytes, dependent: true },
    };
    return { plan, cost };
  });
}

type TiledKernel = (typeof tiledKernels)[number];
const tiledKernelOf = (rows: number): TiledKernel => tiledKernels.find((kernel) => rows <= kernel.rows)!;

/** A block for each tile and split, two at a time on an SM. */
function tiledPlan({ kernel, tileRows, tileColumns, stages }: TiledKernel, rows: number, n: number, splits: number, chunk: number): LinearPlan {
  const tiles = [ceilDiv(rows, tileRows), ceilDiv(n, tileColumns)] as const, numTiles = tiles[0] * tiles[1];
  return {
    family: "tiled", kernel, tiles, splits, chunk, rowsAtOnce: tiles[0] * tileRows, partialBytes: splits > 1 ? splits * numTiles * tileRows * tileColumns * 4 : 0,
    shape: { grid: [numTiles, splits, 1], block: 128, sharedBytes: stages * (tileRows + tileColumns) * 128, dependent: true },
  };
}

function planTiled({ rows, n, k }: LinearSize, { numSms, maxSharedBytes }: LinearMachine, only: Only = {}): LinearPlan | undefined {
  const kernel = tiledKernelOf(rows);
  return cheapest(k, only.splits, (splits, chunk) => {
    const plan = tiledPlan(kernel, rows, n, splits, chunk), { sharedBytes } = plan.shape;
    invariant(sharedBytes! <= maxSharedBytes, `a block of ${plan.kernel} takes ${sharedBytes} bytes of shared memory, the GPU has ${maxSharedBytes}`);
    return { plan, cost: ceilDiv(plan.tiles[0] * plan.tiles[1] * splits, 2 * numSms) * (chunk + 192) + (splits > 1 ? 256 + 220 * splits : 0) };
  });
}

/**
 * Splits of a step of 64 rows for all numbers of rows: the kernels of tiles add up in the same order, so a row has the same bits in any company.
 * What splits hand over is for fewer rows than there may be, so many rows are several launches.
 */
function planDeterministic({ rows, n, k }: LinearSize, machine: LinearMachine): LinearPlan {
  const [least] = tiledKernels, { splits, chunk } = planTiled({ rows: least.tileRows, n, k }, machine)!;
  const plans = [tiledKernelOf(rows), least].map((kernel) => {
    const plan = tiledPlan(kernel, rows, n, splits, chunk);
    if (splits === 1 || fitsWorkspace(plan)) return plan;
    const mostTiles = Math.floor(Math.min(linearWorkspace.partialBytes / (plan.partialBytes / plan.tiles[0]), linearWorkspace.maxTiles / plan.tiles[1]));
    return tiledPlan(kernel, mostTiles * kernel.tileRows, n, splits, chunk);
  });
  const plan = plans.find(({ rowsAtOnce }) => rowsAtOnce > 0);
  invariant(plan, `what ${splits} splits of ${least.tileRows} rows hand over fits the workspace`);
  return plan;
}

const families: Readonly<Record<LinearFamily, (size: LinearSize, machine: LinearMachine, only?: Only) => LinearPlan | undefined>> = {
  skinny: planSkinny,
  tiled: planTiled,
  library: ({ rows, k }, { library }) => (library ? { family: "library", kernel: "cublasLt", tiles: [1, 1], splits: 1, chunk: k, shape: { grid: [1, 1, 1], block: 1 }, partialBytes: 0, rowsAtOnce: rows } : undefined),
};

/** How a product is computed. `only`: by that family, that many splits and that depth instead, for measurements; undefined where they can not. */
export function planLinear(size: LinearSize, machine: LinearMachine, only?: { readonly family: LinearFamily } & Only): LinearPlan | undefined {
  if (only) return families[only.family](size, machine, only);
  if (machine.deterministic) return planDeterministic(size, machine);
  for (const { rows, family, wholeX } of linearRules) {
    if (size.rows > rows || (wholeX && !families[family](size, machine, { splits: 1 }))) continue;
    const plan = families[family](size, machine);
    if (plan) return plan;
  }
  return undefined;
}

/** The modules that have a plan's kernel. */
export const modulesOfFamily: Readonly<Record<LinearFamily, readonly ModuleKind[]>> = { skinny: ["skinny"], tiled: ["tiled"], library: [] };

/** A product on the GPU. Addresses; strides in elements from a row to the next. */
export interface LinearCall extends LinearSize {
  readonly element: Element;
  readonly header: number;
  /** The header's word that counts rows. */
  readonly rowsWord: number;
  readonly out: number;
  readonly outType: "f32" | Element;
  readonly outStride: number;
  /** [rows, k] of the element; f32 where `norm`. */
  readonly x: number;
  readonly xStride: number;
  readonly weight: number;
  /** f32 [n], 0 for none. */
  readonly bias: number;
  /** f32, 0 for none. */
  readonly residual: number;
  readonly residualStride: number;
  /**
   * Only of the skinny kernels for 8 rows. `norm`: x is normalised first, and `out` gets what is multiplied. `gate`: the first half of the product is the gate of
   * the second, and `out` gets f(gate) times the second. `rope`: the product is heads of q, k and v; those of q and k are turned, k and v kept in the cache too.
   */
  readonly norm?: { readonly weight: number; readonly epsilon: number; readonly out: number; readonly outStride: number };
  readonly gate?: { readonly activation: ActivationFunction; readonly out: number; readonly outStride: number };
  readonly rope?: RopeCall;
}

/** ropeAndCache of whole heads without norms, to caches of the element. Addresses as the op has them: positions and slots are there for all rows of the launch. */
export interface RopeCall {
  readonly positions: number;
  readonly slots: number;
  readonly rotary: number;
  readonly key: number;
  readonly value: number;
  readonly numQueryHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly pageSize: number;
}

/** Numbers of the nonlinearities in kernels/common.cu. */
export const activationNumber: Readonly<Record<ActivationFunction, number>> = { silu: 0, geluTanh: 1, gelu: 2, relu: 3 };

/** Whether cuBLASLt can compute it: a residual lies as out does. A bias it would round to 16 bits, and the sum before that is added. */
export const libraryTakes = (call: Omit<LinearCall, "rows">): boolean =>
  !call.norm && !call.gate && !call.rope && call.bias === 0 && (call.residual === 0 || (call.outType === "f32" && call.residualStride === call.outStride));

/** What launches need: of the device, the library if there is one, and `linearWorkspace.bytes` of zeroed memory. */
export interface LinearLauncher {
  readonly device: { launch(f: KernelFunction, shape: LaunchShape, params: Uint8Array): void };
  readonly blas: { matmul(m: Matmul): void } | undefined;
  readonly workspace: number;
  kernel(name: string, sharedBytes?: number): KernelFunction;
}

type Launch = (call: LinearCall, plan: LinearPlan, launcher: LinearLauncher) => void;

const launches: Readonly<Record<LinearFamily, Launch>> = {
  skinny(call, { kernel, tiles, chunk, depth, shape }, { device, workspace, kernel: find }) {
    const { norm, gate, rope } = call, last = gate ?? call, product = gate || rope ? call : undefined;
    const name = `${kernel}${norm ? "Norm" : ""}${gate ? "Gated" : ""}${rope ? "Rope" : ""}_${call.element}`;
    const params = new Params()
      .ptr(call.header).ptr(call.x).ptr(call.weight).ptr(last.out).ptr(call.bias).ptr(call.residual).ptr(norm?.weight ?? 0).ptr(norm?.out ?? 0).ptr(product?.out ?? 0)
      .ptr(workspace).ptr(workspace + linearWorkspace.partialBytes)
      .i32(call.rowsWord).i32(call.xStride).i32(last.outStride).i32(call.residualStride).i32(norm?.outStride ?? 0).i32(product?.outStride ?? 0).i32(call.n).i32(call.k).i32(chunk).i32(tiles[1])
      .i32(call.rows).i32(call.outType === "f32" ? 1 : 0).i32(gate ? activationNumber[gate.activation] : 0).i32(depth!).f32(norm?.epsilon ?? 0)
      .ptr(rope?.positions ?? 0).ptr(rope?.slots ?? 0).ptr(rope?.rotary ?? 0).ptr(rope?.key ?? 0).ptr(rope?.value ?? 0)
      .i32(rope?.numQueryHeads ?? 0).i32(rope?.numKvHeads ?? 0).i32(rope?.headDim ?? 0).i32(rope?.pageSize ?? 0);
    device.launch(find(name, shape.sharedBytes), shape, params.bytes());
  },
  tiled(call, { kernel, tiles, chunk, shape, rowsAtOnce }, { device, workspace, kernel: find }) {
    const pairs = [call.out, call.residual].every((address) => address % 8 === 0) && call.outStride % 2 === 0 && call.residualStride % 2 === 0;
    const outBytes = call.outStride * (call.outType === "f32" ? 4 : 2);
    for (let first = 0; first < call.rows; first += rowsAtOnce) {
      const part = { ...call, x: call.x + first * call.xStride * 2, out: call.out + first * outBytes, residual: call.residual && call.residual + first * call.residualStride * 4 };
      device.launch(find(`${kernel}_${call.element}`, shape.sharedBytes), shape, tiledParams(part, workspace, chunk, tiles, pairs, first));
    }
  },
  library({ rows, n: N, k: K, out, outType, outStride, x, xStride, weight, element, residual }, _plan, { blas }) {
    blas!.matmul({ out, outType, outStride, x, xType: element, xStride, weight, rows, N, K, ...(residual === 0 ? {} : { residual }) });
  },
};

const tiledParams = (call: LinearCall, workspace: number, chunk: number, tiles: readonly [number, number], pairs: boolean, firstRow: number): Uint8Array =>
  new Params()
    .ptr(call.header).ptr(call.x).ptr(call.weight).ptr(call.out).ptr(call.bias).ptr(call.residual).ptr(workspace).ptr(workspace + linearWorkspace.partialBytes)
    .i32(call.rowsWord).i32(call.xStride).i32(call.outStride).i32(call.residualStride).i32(call.n).i32(call.k).i32(chunk).i32(tiles[0]).i32(tiles[1])
    .i32(call.outType === "f32" ? 1 : 0).i32(pairs ? 1 : 0).i32(firstRow)
    .bytes();

/** Queues a product as its plan says. */
export function launchLinear(call: LinearCall, plan: LinearPlan, launcher: LinearLauncher): void {
  const { norm, gate, rope } = call, pairs = gate ?? rope;
  invariant((!norm && !pairs) || plan.kernel === "linear8", `norms, gates and rope are fused into products of 8 rows, not ${plan.kernel}`);
  invariant(!pairs || (call.n % 2 === 0 && call.residual === 0 && call.outType !== "f32"), "a product of pairs has two halves, 16 bits and no residual");
  invariant(!rope || (!gate && rope.headDim % 16 === 0 && call.n === (rope.numQueryHeads + 2 * rope.numKvHeads) * rope.headDim), "a product that is turned is heads of q, k and v, of whole tiles");
  launches[plan.family](call, plan, launcher);
}
