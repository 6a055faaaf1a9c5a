/**
 * llama.cpp, through the prebuilt CPU build that comes with node-llama-cpp, as fast as it goes.
 *
 *   installed   on demand, into node_modules/.cache: no dependency of the project, and none of the GPU builds
 *   build       the best of its CPU variants for this machine, which it chooses itself; `description` has what it says of it
 *   file        mapped, as is its default; it packs what it wants to pack (REPACK) as it loads
 *   batch       512, so that a prompt of 512 tokens is one call
 *   attention   flash attention on or off: whichever turned out faster in a trial, for each case by itself
 *   steps       llama_decode and its greedy sampler are called through the addon itself, one call for a step of all sequences: the
 *               package's own scheduling of sequences in JavaScript, which costs some time for each token, is left out
 *   sequences   all in one context, each with cells of its own; a step has one token of each
 *
 * So it is spared what Tessera's figures include. Its calls are internal to the package, hence the exact version. Knows nothing of Tessera.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Room, Runs } from "./contender.ts";

export const version = "3.22.1";
const folder = fileURLToPath(new URL(`../../node_modules/.cache/node-llama-cpp-${version}/`, import.meta.url));
const entry = `${folder}node_modules/node-llama-cpp/dist/index.js`;
const builds: Readonly<Record<string, string>> = { "darwin-arm64": "mac-arm64-metal", "darwin-x64": "mac-x64", "win32-x64": "win-x64", "win32-arm64": "win-arm64" };

/** Installs the package once; returns what to import. */
export function install(): string {
  if (!existsSync(entry)) {
    const platform = `${process.platform}-${process.arch}`;
    console.error(`Installing node-llama-cpp ${version} for the comparison ...`);
    mkdirSync(folder, { recursive: true });
    const packages = [`node-llama-cpp@${version}`, `@node-llama-cpp/${builds[platform] ?? platform}@${version}`];
    execFileSync("npm", ["install", "--prefix", folder, "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", ...packages], { stdio: "inherit", shell: process.platform === "win32" });
  }
  return pathToFileURL(entry).href;
}

/** What is used of the package. */
interface Package {
  getLlama(options: object): Promise<Llama>;
}
export interface Llama {
  readonly systemInfo: string;
  loadModel(options: { readonly modelPath: string }): Promise<Model>;
  dispose(): Promise<void>;
}
interface Model {
  createContext(options: object): Promise<Context>;
  tokenize(text: string): number[];
  dispose(): Promise<void>;
}
interface Context {
  readonly _ctx: AddonContext;
  dispose(): Promise<void>;
  getSequence(): { evaluate(tokens: readonly number[], options: object): AsyncIterable<number> };
}
interface AddonContext {
  initBatch(tokens: number): void;
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logitsOf: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  sampleToken(logits: number, sampler: object): Promise<number>;
  disposeSequence(sequence: number): void;
  removeTokenCellsFromSequence(sequence: number, from: number, to: number): boolean;
}
interface SamplerModule {
  LlamaSampler: new (model: Model) => { readonly _sampler: object; applyConfig(config: object): void; dispose(): void };
}

/** @throws when the package cannot be installed or has no build for this machine. */
export async function start(threads: number): Promise<Llama> {
  const { getLlama } = (await import(install())) as Package;
  return getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error", progressLogs: false });
}

interface Piece { readonly sequence: number; readonly position: number; readonly tokens: Uint32Array }

/** One context with one setting of flash attention. */
class Side implements Runs {
  readonly #context: AddonContext;
  readonly #sampler: object;
  /** What a sequence's cells hold: the prompt, and the token that comes next. */
  readonly #held = new Map<number, { readonly prompt: Int32Array; readonly next: number }>();

  constructor(context: AddonContext, sampler: object) {
    this.#context = context;
    this.#sampler = sampler;
  }

  /** One llama_decode; the greedy token after each piece. */
  async #step(pieces: readonly Piece[]): Promise<number[]> {
    this.#context.initBatch(pieces.reduce((sum, { tokens }) => sum + tokens.length, 0));
    const logits = pieces.map(({ sequence, position, tokens }) => this.#context.addToBatch(sequence, position, tokens, Uint32Array.of(tokens.length - 1))[0]!);
    await this.#context.decodeBatch();
    const next: number[] = [];
    for (const row of logits) next.push(await this.#context.sampleToken(row, this.#sampler));
    return next;
  }

  /** Makes a sequence's cells hold `prompt`; the token that comes next. */
  async #fill(sequence: number, prompt: Int32Array): Promise<number> {
    this.#context.disposeSequence(sequence);
    this.#held.delete(sequence);
    const [next] = await this.#step([{ sequence, position: 0, tokens: Uint32Array.from(prompt) }]);
    this.#held.set(sequence, { prompt, next: next! });
    return next!;
  }

  async prefill(prompt: Int32Array): Promise<number> {
    const start = performance.now();
    await this.#fill(0, prompt);
    return prompt.length / ((performance.now() - start) / 1000);
  }

  async decode(prompts: readonly Int32Array[], steps: number): Promise<number> {
    let next: number[] = [];
    for (const [sequence, prompt] of prompts.entries()) {
      const held = this.#held.get(sequence);
      next.push(held?.prompt === prompt ? held.next : await this.#fill(sequence, prompt));
    }
    const start = performance.now();
    for (let step = 0; step < steps; step++) {
      next = await this.#step(prompts.map((prompt, sequence) => ({ sequence, position: prompt.length + step, tokens: Uint32Array.of(next[sequence]!) })));
    }
    const seconds = (performance.now() - start) / 1000;
    for (const [sequence, prompt] of prompts.entries()) this.#context.removeTokenCellsFromSequence(sequence, prompt.length, -1);
    return (prompts.length * steps) / seconds;
  }
}

/** Both settings of flash attention: which is the faster is for a trial to say. */
export interface Peer extends AsyncDisposable {
  readonly description: string;
  readonly settings: Readonly<Record<"flash attention" | "no flash attention", Runs>>;
}

export async function openLlama(file: string, { threads, sequences, length, batch }: Room): Promise<Peer> {
  const llama = await start(threads);
  const model = await llama.loadModel({ modelPath: file });
  const { LlamaSampler } = (await import(new URL("evaluator/LlamaContext/LlamaSampler.js", install()).href)) as SamplerModule;
  const sampler = new LlamaSampler(model);
  const { _sampler: bare } = sampler;
  sampler.applyConfig({ temperature: 0, minP: 0, topK: 40, topP: 0.95, seed: 1 });
  const open = (flashAttention: boolean): Promise<Context> => model.createContext({ sequences, contextSize: length, batchSize: batch, threads, flashAttention });
  const contexts = [await open(true), await open(false)] as const;
  const [{ _ctx: flash }, { _ctx: plain }] = contexts;
  return {
    description: `node-llama-cpp ${version}, ${llama.systemInfo.replace(/\s*\|\s*$/, "")}`,
    settings: { "flash attention": new Side(flash, bare), "no flash attention": new Side(plain, bare) },
    // One by one, and held until then: the package waits for ever for a model or context that the collector has taken.
    async [Symbol.asyncDispose]() {
      sampler.dispose();
      for (const context of contexts) await context.dispose();
      await model.dispose();
      await llama.dispose();
    },
  };
}
