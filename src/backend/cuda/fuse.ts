/**
 * Commands of a program that are done as one where a step has few rows: a norm, the product of its rows, and the gate or the rotation behind it.
 *
 *   rmsNorm ──▶ linear ──▶ gatedActivation        a norm needs a linear that reads what it writes;
 *                    └───▶ ropeAndCache           what stands behind, one that writes what it reads
 *
 * What is joined writes all that its parts write, bit for bit, so nobody has to know who else reads it. It saves launches, and the waits between
 * them. Knows no kernel: which sizes of step a product can do its neighbours' work in, and how, it says itself.
 */
import type { Activation, ActivationFunction, Buffer, KvCache, StepSize } from "../backend.ts";
import { own } from "./memory.ts";
import type { FindKernel, ModuleName } from "./modules.ts";

/** rmsNorm to 16 bits without a residual. */
export interface NormPart {
  readonly kind: "norm";
  readonly x: Activation;
  readonly out: Activation;
  /** Address. */
  readonly weight: number;
  readonly epsilon: number;
}

export interface LinearPart {
  readonly kind: "linear";
  readonly x: Activation;
  readonly out: Activation;
  /** What joined launches need beside the command's own modules. */
  readonly needs: readonly ModuleName[];
  /** Which neighbours it can take over in a step of this size. */
  takes(step: StepSize): Readonly<Record<"norm" | BehindPart["kind"], boolean>>;
  launch(step: StepSize, kernel: FindKernel, joined: Joined): void;
}

/** What a product does beside its own work. */
export interface Joined {
  readonly norm?: NormPart | undefined;
  readonly behind?: BehindPart | undefined;
}

export interface GatedPart {
  readonly kind: "gated";
  readonly gateUp: Activation;
  readonly out: Activation;
  readonly activation: ActivationFunction;
}

/** ropeAndCache of whole heads without norms, to caches of qkv's type. */
export interface RopePart {
  readonly kind: "rope";
  readonly qkv: Activation;
  readonly key: KvCache;
  readonly value: KvCache;
  /** Addresses. */
  readonly positions: number;
  readonly slots: number;
  readonly rotary: number;
  readonly numQueryHeads: number;
  /** Rows that there are positions and slots for. */
  readonly mostRows: number;
}

export type BehindPart = GatedPart | RopePart;

/** What `fuse` has to know of a command. */
export type Part = NormPart | LinearPart | BehindPart;

/** A command of a program: the modules it launches from, by label, and what it runs. */
export interface Recorded {
  readonly needs: readonly string[];
  readonly run: (step: StepSize) => void;
  readonly part?: Part | undefined;
}

const sameMatrix = (a: Activation, b: Activation): boolean =>
  own(a.data).address === own(b.data).address && a.columns === b.columns && a.stride === b.stride && a.dtype === b.dtype && a.rows === b.rows;
/** Blocks of one launch read and write in any order, so what it reads must not be where it writes. */
function apart(a: { readonly data: Buffer }, b: { readonly data: Buffer }): boolean {
  const [x, y] = [own(a.data), own(b.data)];
  return x.address + x.bytes <= y.address || y.address + y.bytes <= x.address;
}

/** Of what stands behind a product: what it reads of it, and what it writes elsewhere. */
const readBy = (part: BehindPart): Activation => (part.kind === "gated" ? part.gateUp : part.qkv);
const writtenBy = (part: BehindPart): readonly { readonly data: Buffer }[] => (part.kind === "gated" ? [part.out] : [part.key, part.value]);
const isBehind = (part: Part | undefined): part is BehindPart => part?.kind === "gated" || part?.kind === "rope";

/**
 * The same commands, where neighbours that can be are joined. `want` starts loading a module and gives its label; `find` finds a kernel of the
 * loaded ones. Which parts of a joined command are one launch is asked anew for each size of step.
 */
export function fuse(commands: readonly Recorded[], want: (name: ModuleName) => string, find: FindKernel): readonly Recorded[] {
  const fused: Recorded[] = [];
  for (let i = 0; i < commands.length; ) {
    const first = commands[i]!, norm = first.part?.kind === "norm" ? first.part : undefined;
    const product = norm ? commands[i + 1] : first, linear = product?.part;
    if (!product || linear?.kind !== "linear" || (norm && !(sameMatrix(norm.out, linear.x) && apart(norm.x, linear.out) && apart(norm.x, norm.out)))) {
      fused.push(first);
      i++;
      continue;
    }
    const last = commands[i + (norm ? 2 : 1)], next = isBehind(last?.part) && sameMatrix(readBy(last.part), linear.out) ? last.part : undefined;
    const inUse = [linear.x, linear.out, ...(norm ? [norm.x] : [])], behind = next && writtenBy(next).every((b) => inUse.every((a) => apart(a, b))) ? next : undefined;
    const parts = [...(norm ? [first] : []), product, ...(last && behind ? [last] : [])];
    fused.push(parts.length === 1 ? product : {
      needs: [...parts.flatMap(({ needs }) => needs), ...linear.needs.map(want)],
      run(step) {
        const takes = linear.takes(step), takesNorm = norm !== undefined && takes.norm, takesBehind = behind !== undefined && takes[behind.kind];
        if (!takesNorm && !takesBehind) return parts.forEach(({ run }) => run(step));
        if (norm && !takesNorm) first.run(step);
        linear.launch(step, find, { norm: takesNorm ? norm : undefined, behind: takesBehind ? behind : undefined });
        if (behind && !takesBehind) last!.run(step);
      },
    });
    i += parts.length;
  }
  return fused;
}
