/**
 * Which kernels a text of CUDA C++ has and how many bytes their parameter takes, read off the text itself: a dry run has no compiler. Reads the little
 * of the language that kernels/*.cu and the scripts' own sources are written in, and says so where it meets more. Knows no kernel.
 */
import { invariant } from "../../src/core/errors.ts";

/** The text without what `#if defined` leaves out. Every other condition is about the architecture, and holds. */
function preprocessed(text: string): string {
  const defined = new Set<string>(), kept: string[] = [];
  /** Of each open #if: whether a branch was taken, and whether lines are kept. */
  const open: { taken: boolean; live: boolean }[] = [];
  const holds = (condition: string): boolean => {
    const [, not, name] = /^(!?)defined\((\w+)\)/.exec(condition.trim()) ?? [];
    return name === undefined || defined.has(name) === (not === "");
  };
  for (const line of text.split("\n")) {
    const [, directive, rest = ""] = /^\s*#(if|ifdef|ifndef|elif|else|endif|define)\b(.*)$/.exec(line) ?? [], top = open.at(-1), live = open.every((o) => o.live);
    if (directive === "if") {
      const taken = holds(rest);
      open.push({ taken, live: taken });
    } else if (directive === "ifdef" || directive === "ifndef") {
      const taken = defined.has(rest.trim()) === (directive === "ifdef");
      open.push({ taken, live: taken });
    } else if (directive === "elif" || directive === "else") {
      invariant(top, `#${directive} without #if`);
      top.live = !top.taken && (directive === "else" || holds(rest));
      top.taken ||= top.live;
    } else if (directive === "endif") open.pop();
    else if (live) {
      if (directive === "define") defined.add(/^\s*(\w+)/.exec(rest)![1]!);
      kept.push(line);
    }
  }
  return kept.join("\n");
}

const scalars: Readonly<Record<string, number>> = {
  u8: 1, char: 1, u16: 2, int: 4, unsigned: 4, u32: 4, float: 4, double: 8, i64: 8, u64: 8, "long long": 8, "unsigned long long": 8, "unsigned int": 4,
};
interface Layout { readonly bytes: number; readonly alignment: number }
const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Every struct of plain members, as C lays it out. */
function structsOf(text: string): ReadonlyMap<string, Layout> {
  const found = new Map<string, Layout>();
  for (const [, atLeast, name, body] of text.replaceAll(/\/\/.*$/gm, "").matchAll(/struct (?:alignas\((\d+)\) )?(\w+) \{([^{}()]*)\};/g)) {
    let bytes = 0, alignment = Number(atLeast ?? 1), known = true;
    for (const member of body!.split(";").map((m) => m.trim().replace(/^const /, "")).filter((m) => m !== "")) {
      const [, type, names] = /^((?:unsigned |long )*\w+)(\s+\w.*|\s*\*.*)$/.exec(member) ?? [];
      if (type === undefined) { known = false; break; }
      for (const declared of names!.split(",")) {
        const [, pointer, count] = /^\s*(\*?)\s*\w+(?:\[(\d+)\])?$/.exec(declared) ?? [];
        const layout = pointer === "*" ? { bytes: 8, alignment: 8 } : scalars[type] ? { bytes: scalars[type], alignment: scalars[type] } : found.get(type);
        if (pointer === undefined || !layout) { known = false; break; }
        bytes = roundUp(bytes, layout.alignment) + layout.bytes * Number(count ?? 1);
        alignment = Math.max(alignment, layout.alignment);
      }
    }
    if (known) found.set(name!, { bytes: roundUp(bytes, alignment), alignment });
  }
  return found;
}

/** Bytes of each kernel's parameter, by the kernel's name. */
export function kernelsOf(source: string): ReadonlyMap<string, number> {
  const text = preprocessed(source), structs = structsOf(text), suffix = /^#define NAME\(kernel\) kernel##(\w+)$/m.exec(text)?.[1] ?? "", kernels = new Map<string, number>();
  const add = (kernel: string, struct: string): void => {
    const layout = structs.get(struct);
    invariant(layout, `kernel ${kernel} takes a ${struct}, which is no struct of plain members`);
    kernels.set(kernel, layout.bytes);
  };
  /** What declares kernels by a name that is its first argument, and the struct they take. */
  const macros = new Map<string, string>();
  const whole = text.replaceAll("\\\n", " ");
  for (const [line] of whole.matchAll(/^.*__global__.*$/gm)) {
    const [, macro, declared, struct] = /^(?:#define (\w+)\(.*?\) )?.*\bvoid (?:__launch_bounds__\([^)]*\) )?(NAME\(\w+\)|\w+)\(const __grid_constant__ (\w+) p\)/.exec(line) ?? [];
    invariant(declared !== undefined, `a kernel is declared in another way: ${line}`);
    if (macro !== undefined) macros.set(macro, struct!);
    else add(declared.startsWith("NAME(") ? `${declared.slice(5, -1)}${suffix}` : declared, struct!);
  }
  for (const [macro, struct] of macros) for (const [, name] of whole.matchAll(new RegExp(`^${macro}\\((\\w+),`, "gm"))) add(`${name}${suffix}`, struct);
  return kernels;
}
