/**
 * Hunts a fault: runs what could find it, the quickest first, until something fails. The simulator, the tests that stand beside the engine's and the
 * sampler's sources, those of tests/engine/, and the simulator once more for longer, from another seed.
 */
import { spawn } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { type Fault, planted, root } from "./fault.ts";

export interface Verdict {
  readonly fault: Fault;
  /** Who found it and how he says it; undefined: nobody. */
  readonly killedBy: string | undefined;
  readonly seconds: number;
}

/** Longer than any of them takes: what has not ended by then never does. */
const patienceSeconds = 180;

export interface Hunter {
  readonly name: string;
  readonly args: (fault: Fault) => readonly string[];
  /** What it has to say of a failure. */
  readonly reason: (output: string) => string;
}

export const simulator = (operations: number, from: number): Hunter => ({
  name: `simulator, ${2 * operations} operations`,
  args: () => ["tests/simulator/main.ts", "--operations", String(operations), "--from", String(from)],
  reason: (output) => /(seed \d+ of the \w+ machine);.*\n(.*)/.exec(output)?.slice(1).join(": ") ?? firstError(output),
});
const tests = (name: string, pattern: string): Hunter => ({
  name,
  args: ({ tests = [] }) => ["--test", "--test-reporter=tap", `--test-timeout=${1000 * (patienceSeconds - 20)}`, ...globSync(pattern, { cwd: root }), ...tests],
  reason: (output) => /^ *not ok \d+ - (?!.*\.test\.ts$)(.*)$/m.exec(output)?.[1] ?? firstError(output),
});
const firstError = (output: string): string => /^.*Error.*$/m.exec(output)?.[0] ?? "it ends with an error";

const hunters: readonly Hunter[] = [simulator(15_000, 0), tests("tests beside the sources", "src/{engine,sampling}/*.test.ts"), tests("tests/engine", "tests/engine/*.test.ts"), simulator(150_000, 100_000)];

/** Runs node under a fault; what it printed, and whether all was well. */
function run(fault: Fault, args: readonly string[]): Promise<{ readonly ok: boolean; readonly output: string }> {
  return new Promise((resolve) => {
    const env: NodeJS.ProcessEnv = { ...process.env, TESSERA_FAULT: JSON.stringify(fault), NODE_OPTIONS: `--import=${new URL("hook.ts", import.meta.url).href}` };
    // Whoever runs this as a test is no parent of these.
    delete env["NODE_TEST_CONTEXT"];
    delete env["TESSERA_LONG"];
    const child = spawn(process.execPath, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => (output += data.toString()));
    const timer = setTimeout(() => {
      output = "Error: it never ends";
      child.kill("SIGKILL");
    }, 1000 * patienceSeconds);
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve({ ok: code === 0, output });
    });
  });
}

/** Who of the hunters finds it. @throws where the fault does not fit its file */
export async function hunt(fault: Fault, sent = hunters): Promise<Verdict> {
  planted(fault, readFileSync(`${root}${fault.file}`, "utf8"));
  const start = performance.now();
  const verdict = (killedBy?: string): Verdict => ({ fault, killedBy, seconds: (performance.now() - start) / 1000 });
  for (const { name, args, reason } of sent) {
    const { ok, output } = await run(fault, args(fault));
    if (!ok) return verdict(`${name}: ${reason(output)}`);
  }
  return verdict();
}
