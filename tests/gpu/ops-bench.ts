/** The fixed ops of the backend on a device, launched as they are given, and compared with what they must be. Knows no case. */
import type { BatchInputs, Ops, SamplingOps, StepSize } from "../../src/backend/backend.ts";
import type { Blas } from "../../src/backend/cuda/blas.ts";
import type { KernelFunction } from "../../src/backend/cuda/device.ts";
import type { Recorded } from "../../src/backend/cuda/fuse.ts";
import { elements, moduleKinds } from "../../src/backend/cuda/modules.ts";
import { createOps, type OpsContext } from "../../src/backend/cuda/ops.ts";
import { samplingModules } from "../../src/backend/cuda/sample.ts";
import { Arena, type Matrix, type Type } from "./arena.ts";
import { loadModules, type Machine, openBlas } from "./machine.ts";

/** A value, and the sum of the magnitudes that it is a sum of. */
export type Wanted = readonly [value: number, magnitude: number];
export type Want = (row: number, column: number) => Wanted;

/** How far a rounded result may be: half a unit of the type, and of the sum in f32 a few units of the sum of magnitudes. */
const unit: Readonly<Record<Type, number>> = { f32: 2 ** -23, bf16: 2 ** -8, f16: 2 ** -11 };
export const tolerance = (type: Type, want: number, magnitude: number): number => unit[type] * Math.abs(want) * 1.001 + 4e-6 * magnitude + (type === "f16" ? 2 ** -24 : 1e-30);
/** Rows that are launched for so many. */
export const bucketOf = (rows: number): number => 2 ** Math.ceil(Math.log2(rows));
export const stepOf = (rows: number): StepSize => ({ numTokens: rows, numSequences: 1, numLogits: rows });

const arenaBytes = 768 * 2 ** 20;

export class OpsBench {
  readonly machine: Machine;
  readonly arena: Arena;
  readonly blas: Blas | undefined;
  readonly find: (name: string, sharedBytes?: number) => KernelFunction;
  readonly ops: Omit<Ops, "attention" | keyof SamplingOps>;
  readonly deterministicOps: OpsBench["ops"];
  /** `ops` joins what has proved to be faster; these join what can be joined at all, and that but for norms. */
  readonly joiningOps: Readonly<Record<"all" | "norms apart", OpsBench["ops"]>>;
  /** What ops are launched for. */
  step = stepOf(1);
  #recording: Recorded[] | undefined;

  static async open(machine: Machine): Promise<OpsBench> {
    const blas = await openBlas(machine);
    const names = moduleKinds.filter((kind) => !samplingModules.some((module) => module.kind === kind)).flatMap((kind) => elements.map((element) => ({ kind, element })));
    return new OpsBench(machine, blas, await loadModules(machine, names));
  }

  private constructor(machine: Machine, blas: Blas | undefined, find: OpsBench["find"]) {
    this.machine = machine;
    this.blas = blas;
    this.find = find;
    this.arena = new Arena(machine, arenaBytes);
    const submit: OpsContext["submit"] = (_needs, command, part) => {
      if (this.#recording) this.#recording.push({ needs: [], run: (size) => command(size, find), part });
      else command(this.step, find);
    };
    this.ops = createOps({ device: machine.device, blas, submit });
    this.deterministicOps = createOps({ device: machine.device, blas, deterministic: true, submit });
    const joining = (norm: number): OpsBench["ops"] => createOps({ device: machine.device, blas, mostRowsFused: { norm, gate: 8, rope: 8 }, submit });
    this.joiningOps = { all: joining(8), "norms apart": joining(0) };
  }

  /** What `body` would launch. */
  record(body: () => void): readonly Recorded[] {
    const recording = (this.#recording = [] as Recorded[]);
    try {
      body();
    } finally {
      this.#recording = undefined;
    }
    return recording;
  }

  batch(rows: number, more: Partial<BatchInputs> = {}, logits = rows): BatchInputs {
    const none = this.arena.take(16);
    return { header: this.arena.ints([rows, 1, logits, 0]), tokens: none, positions: none, slots: none, blockTable: none, logitRows: none, maxPagesPerSequence: 1, ...more };
  }

  /** Compares `rows` rows with what `want` makes, everywhere or at `sample` places; what lies behind must be NaN still, but with `tail` false only in these rows. */
  async compare(what: string, out: Matrix, rows: number, want: () => Want, { sample = Infinity, tail = true } = {}): Promise<void> {
    const { machine: { report, dry }, arena } = this;
    if (dry) return report.result(() => [true, what]);
    const got = await arena.read(out.buffer, out.type), { columns, stride } = out.a, wanted = want();
    let worst = 0, at = "", nans = 0, touched = 0;
    const check = (r: number, c: number): void => {
      const [value, magnitude] = wanted(r, c), error = Math.abs(got[r * stride + c]! - value) / tolerance(out.type, value, magnitude);
      if (error <= worst) return;
      worst = Number.isNaN(error) ? Infinity : error;
      at = `[${r}, ${c}] got ${got[r * stride + c]} want ${value}`;
    };
    for (let r = 0; r * stride < got.length; r++) for (let c = 0; c < stride && r * stride + c < got.length; c++) {
      const isNaN = Number.isNaN(got[r * stride + c]);
      if (r < rows && c < columns) nans += isNaN ? 1 : 0;
      else if (tail || r < rows) touched += isNaN ? 0 : 1;
    }
    if (rows * columns <= sample) for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) check(r, c);
    else {
      const below = (n: number): number => Math.min(n - 1, Math.floor(((arena.random() + 1) / 2) * n));
      for (let i = 0; i < sample; i++) check(below(rows), below(columns));
      for (let r = 0; r < rows; r++) for (const c of [columns - 1, 0]) check(r, c);
    }
    report.check(worst <= 1 && nans === 0 && touched === 0, `${what}: error ${worst.toFixed(3)} of what is allowed${worst > 1 ? ` at ${at}` : ""}${nans ? `, ${nans} not written` : ""}${touched ? `, ${touched} written that should not be` : ""}`, true);
  }
}
