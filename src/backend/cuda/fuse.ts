/**
 * Commands of a program that are done as one where a step has few rows: a norm, the product of its rows, and the gate behind it.
 *
 *   rmsNorm ──▶ linear ──▶ gatedActivation        a norm needs a linear that reads what it writes; a gate, one that writes what it reads
 *
 * What is joined writes all that its parts write, bit for bit, so nobody has to know who else reads it. It saves launches, and the waits between
 * them. Knows no kernel: which sizes of step a product can do its neighbours' work in, and how, it says itself.
 */
import type { Activation, ActivationFunction, StepSize } from "../backend.ts";
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
  takes(step: StepSize): { readonly norm: boolean; readonly gated: boolean };
  launch(step: StepSize, kernel: FindKernel, joined: { readonly norm?: NormPart | undefined; readonly gated?: GatedPart | undefined }): void;
}

export interface GatedPart {
  readonly kind: "gated";
  readonly gateUp: Activation;
  readonly out: Activation;
  readonly activation: ActivationFunction;
}

/** What `fuse` has to know of a command. */
export type Part = NormPart | LinearPart | GatedPart;

/** A command of a program: the modules it launches from, by label, and what it runs. */
export interface Recorded {
  readonly needs: readonly string[];
  readonly run: (step: StepSize) => void;
  readonly part?: Part | undefined;
}

const sameMatrix = (a: Activation, b: Activation): boolean =>
  own(a.data).address === own(b.data).address && a.columns === b.columns && a.stride === b.stride && a.dtype === b.dtype && a.rows === b.rows;
/** Blocks of one launch read and write in any order, so what it reads must not be where it writes. */
function apart(a: Activation, b: Activation): boolean {
  const [x, y] = [own(a.data), own(b.data)];
  return x.address + x.bytes <= y.address || y.address + y.bytes <= x.address;
}

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
    const last = commands[i + (norm ? 2 : 1)], gate = last?.part?.kind === "gated" && sameMatrix(last.part.gateUp, linear.out) ? last.part : undefined;
    const gated = gate && [linear.x, linear.out, ...(norm ? [norm.x] : [])].every((a) => apart(a, gate.out)) ? gate : undefined;
    const parts = [...(norm ? [first] : []), product, ...(last && gated ? [last] : [])];
    fused.push(parts.length === 1 ? product : {
      needs: [...parts.flatMap(({ needs }) => needs), ...linear.needs.map(want)],
      run(step) {
        const takes = linear.takes(step), takesNorm = norm !== undefined && takes.norm, takesGated = gated !== undefined && takes.gated;
        if (!takesNorm && !takesGated) return parts.forEach(({ run }) => run(step));
        if (norm && !takesNorm) first.run(step);
        linear.launch(step, find, { norm: takesNorm ? norm : undefined, gated: takesGated ? gated : undefined });
        if (gated && !takesGated) last!.run(step);
      },
    });
    i += parts.length;
  }
  return fused;
}
