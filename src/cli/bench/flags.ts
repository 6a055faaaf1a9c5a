/** `tessera bench`: its subcommands and their flags, by vLLM's names. What they do is in files that are loaded when they are asked for. */
import { Command, InvalidArgumentError, Option } from "commander";
import { addEngineFlags, parseInteger, parseNumber, parsePort } from "../options.ts";
import { createProgress } from "../progress.ts";
import type { BenchIo } from "./serve.ts";

/** A parser of integers that are at least `least`. */
const atLeast = (least: number) => (text: string): number => {
  const value = parseInteger(text);
  if (value < least) throw new InvalidArgumentError(`it must be an integer of at least ${least}.`);
  return value;
};

function parseRate(text: string): number {
  const value = text === "inf" ? Infinity : parseNumber(text);
  if (!(value > 0)) throw new InvalidArgumentError("it must be requests per second above 0, or inf.");
  return value;
}

function parsePositive(text: string): number {
  const value = parseNumber(text);
  if (!(value > 0 && value < Infinity)) throw new InvalidArgumentError("it must be a number above 0.");
  return value;
}

function parseRatio(text: string): number {
  const value = parseNumber(text);
  if (!(value >= 0 && value < 1)) throw new InvalidArgumentError("it must be a number from 0 to below 1.");
  return value;
}

function parsePath(text: string): string {
  if (!text.startsWith("/")) throw new InvalidArgumentError("it must be a path such as /v1/completions.");
  return text;
}

const seconds = () => performance.now() / 1000;

/** Lines to stdout, progress to stderr. */
async function withIo(what: string, run: (io: BenchIo) => Promise<void>): Promise<void> {
  const progress = createProgress(process.stderr, seconds, (done, total) => `${done} of ${total}`);
  await run({
    print(line) {
      progress.finish();
      console.log(line);
    },
    progress: (done, total) => progress.report(what, done, total),
    now: seconds,
    date: () => new Date(),
  }).finally(progress.finish);
}

/** Adds `bench` with its subcommands to `program`. */
export function addBench(program: Command, modelHelp: string): void {
  const bench = program.command("bench").description("measure a server (serve), or the engine in this process (latency, throughput); vLLM's flags and lines");

  bench.command("serve").description("send random prompts to an OpenAI-compatible server by streaming completions, and time the answers")
    .option("--base-url <url>", "the server's address, in place of host and port")
    .option("--host <host>", "the server's host", "127.0.0.1")
    .option("--port <port>", "the server's port", parsePort, 8000)
    .option("--endpoint <path>", "the completions route; prompts are token ids", parsePath, "/v1/completions")
    .option("--model <name>", "the model to ask for (default: the first of /v1/models)")
    .addOption(new Option("--api-key <key>", "a key to send").env("OPENAI_API_KEY"))
    .addOption(new Option("--dataset-name <name>", "where prompts come from").choices(["random"]).default("random"))
    .option("--num-prompts <n>", "how many requests", atLeast(1), 1000)
    .option("--num-warmups <n>", "requests before it begins, besides the first that tries the server", atLeast(0), 0)
    .option("--request-rate <n>", "requests per second; inf sends all at once", parseRate, Infinity)
    .option("--burstiness <n>", "1: a Poisson process; less comes in bursts, more evenly", parsePositive, 1)
    .option("--max-concurrency <n>", "most requests at once", atLeast(1))
    .option("--random-input-len <n>", "tokens of a prompt behind its prefix", atLeast(1), 1024)
    .option("--random-output-len <n>", "most tokens of an answer", atLeast(1), 128)
    .option("--random-prefix-len <n>", "tokens that all prompts begin with", atLeast(0), 0)
    .option("--random-range-ratio <r>", "lengths are drawn from length*(1-r) to length*(1+r)", parseRatio, 0)
    .option("--random-vocab-size <n>", "ids are drawn below this", atLeast(17), 1000)
    .option("--seed <n>", "same seed, same prompts and times", parseInteger, 0)
    .option("--temperature <t>", "0 always takes the likeliest token", parseNumber, 0)
    .option("--ignore-eos", "answers go on to their full length")
    .option("--percentile-metrics <names>", "which of ttft, tpot, itl, e2el to show", "ttft,tpot,itl")
    .option("--metric-percentiles <list>", "which percentiles to show", "99")
    .option("--goodput <bound...>", "count requests within these milliseconds, such as ttft:200 tpot:50")
    .option("--save-result", "write the result as JSON")
    .option("--save-detailed", "write the times of every request, too")
    .option("--result-dir <folder>", "where to", ".")
    .option("--result-filename <name>", "by which name (default: rate, model and date)")
    .action(async (flags) => withIo("requests", async (io) => (await import("./serve.ts")).benchServe(flags, io)));

  addEngineFlags(bench.command("latency").description("the time of one batch, from its prompts to its last tokens, in this process"))
    .option("--model <model>", modelHelp)
    .option("--input-len <n>", "tokens of each prompt", atLeast(1), 32)
    .option("--output-len <n>", "tokens of each answer", atLeast(1), 128)
    .option("--batch-size <n>", "prompts at once", atLeast(1), 8)
    .option("--num-iters-warmup <n>", "batches that are not counted", atLeast(0), 10)
    .option("--num-iters <n>", "batches that are", atLeast(1), 30)
    .option("--seed <n>", "same seed, same prompts", parseInteger, 0)
    .option("--output-json <file>", "write the result as JSON")
    .action(async (flags) => withIo("batches", async (io) => (await import("./offline.ts")).benchLatency(flags, io)));

  addEngineFlags(bench.command("throughput").description("all prompts at once, in this process"))
    .option("--model <model>", modelHelp)
    .option("--input-len <n>", "tokens of each prompt", atLeast(1), 512)
    .option("--output-len <n>", "tokens of each answer", atLeast(1), 128)
    .option("--num-prompts <n>", "how many", atLeast(1), 1000)
    .option("--seed <n>", "same seed, same prompts", parseInteger, 0)
    .option("--output-json <file>", "write the result as JSON")
    .action(async (flags) => withIo("prompts", async (io) => (await import("./offline.ts")).benchThroughput(flags, io)));
  for (const command of bench.commands) command.showHelpAfterError(`(tessera bench ${command.name()} --help shows its flags)`);
}
