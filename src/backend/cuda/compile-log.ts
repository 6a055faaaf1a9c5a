/**
 * What NVRTC's log says of the machine code (--ptxas-options=-v): registers, spills, stack and shared memory of each kernel, and what makes
 * a kernel slow without being wrong. Knows no source.
 */

export interface KernelResources {
  readonly kernel: string;
  /** Of a thread. */
  readonly registers: number;
  /** Bytes of a thread's registers that are stored to memory and loaded again, both counted. */
  readonly spillBytes: number;
  /** Bytes of a thread's local memory. */
  readonly stackBytes: number;
  /** Static shared memory of a block. */
  readonly sharedBytes: number;
}

const entry = /Compiling entry function '([^']+)'/;
const properties = /Function properties for '?([^\s']+)/;
const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/;
const used = /Used (\d+) registers/;
const shared = /(\d+) bytes smem/;
/** The assembler makes the matrix instructions of Hopper wait for each other: C7510 and C7512, and whatever it says so of by other numbers. */
const serialised = /\bC75(?:10|12)\b|wgmma.*serializ/i;

/** Resources of each kernel, in the log's order. Device functions that were not inlined are reported under their own names. */
export function resourcesOf(log: string): KernelResources[] {
  const found: { kernel: string; registers: number; spillBytes: number; stackBytes: number; sharedBytes: number }[] = [];
  const of = (kernel: string): (typeof found)[number] => {
    let one = found.find((r) => r.kernel === kernel);
    if (!one) found.push((one = { kernel, registers: 0, spillBytes: 0, stackBytes: 0, sharedBytes: 0 }));
    return one;
  };
  let kernel: string | undefined, described: string | undefined;
  for (const line of log.split("\n")) {
    kernel = entry.exec(line)?.[1] ?? kernel;
    described = properties.exec(line)?.[1] ?? described;
    const [, stack, stores, loads] = frame.exec(line) ?? [];
    if (stack !== undefined && described !== undefined) Object.assign(of(described), { stackBytes: Number(stack), spillBytes: Number(stores) + Number(loads) });
    const registers = used.exec(line)?.[1];
    if (registers !== undefined && kernel !== undefined) Object.assign(of(kernel), { registers: Number(registers), sharedBytes: Number(shared.exec(line)?.[1] ?? 0) });
  }
  return found;
}

/**
 * What is wrong with the log of code that has these kernels, a sentence each: who does not know what a kernel takes does not know that it spills.
 */
export function gapsOf(log: string, kernels: readonly string[]): string[] {
  const told = new Map(resourcesOf(log).map((one) => [one.kernel, one])), framed = new Set<string>();
  let described: string | undefined;
  for (const line of log.split("\n")) {
    described = properties.exec(line)?.[1] ?? described;
    if (described !== undefined && frame.test(line)) framed.add(described);
  }
  const entries = [...log.matchAll(new RegExp(entry, "g"))].map((match) => match[1]!);
  return [
    ...kernels.filter((kernel) => !entries.includes(kernel) || !framed.has(kernel) || !told.get(kernel)?.registers).map((kernel) => `what ${kernel} takes is not said`),
    ...entries.filter((kernel) => !kernels.includes(kernel)).map((kernel) => `${kernel} is another's`),
  ];
}

/** Why code that compiled is refused, a sentence each; empty where it is as it should be. */
export function slowness(log: string): string[] {
  const said = resourcesOf(log).flatMap(({ kernel, registers, spillBytes, stackBytes }) => [
    ...(spillBytes > 0 ? [`${kernel} spills ${spillBytes} bytes (it has ${registers} registers): fewer values at a time, or fewer threads in its __launch_bounds__`] : []),
    ...(spillBytes === 0 && stackBytes > 0 ? [`${kernel} keeps ${stackBytes} bytes on the stack: an array of it is indexed by what is not known when it is compiled`] : []),
  ]);
  return [...said, ...log.split("\n").filter((line) => serialised.test(line)).map((line) => line.trim())];
}

/** What a failed compilation says: NVRTC quotes the lines of source by itself. */
export const errorsOf = (log: string): string => log.split("\n").filter((line) => line.trim() !== "" && !line.startsWith("ptxas info")).join("\n");
