/**
 * The `tessera` command: which subcommand takes which flags, and how errors leave. bin/tessera.js starts this file.
 *
 * Whoever can mend an error gets its message and exit code 1; an error of ours comes with its stack.
 */
import { Command, CommanderError, Option } from "commander";
import { BadRequest, UsageError } from "../core/errors.ts";
import { version } from "../core/version.ts";
import { GenerationFailed } from "../llm/generation.ts";
import { addBench } from "./bench/flags.ts";
import { addEngineFlags, addSamplingFlags, collect, parseCount, parseInteger, parseLengths, parsePort, parseSeconds } from "./options.ts";
import { limits } from "../server/limits.ts";
import { flagNames, sentence } from "./sentence.ts";

const modelHelp = "a folder in Hugging Face layout, a .gguf file, or of the hub org/name, org/name/file.gguf or org/name:Q4_K_M (default: the built-in demo model)";

const examples = (...lines: readonly string[]) => `\nExamples:\n${lines.map((line) => `  $ ${line}`).join("\n")}\n`;

function createProgram(): Command {
  const program = new Command("tessera")
    .description("LLM inference and serving in TypeScript, with attention you program as ordinary functions.")
    .version(version)
    // Commands made from here on inherit it.
    .configureOutput({ outputError: (text, write) => write(`tessera: ${sentence(text)} `) })
    .showHelpAfterError("(tessera --help shows the commands)")
    .addHelpText("after", examples(
      "tessera serve", "tessera serve org/name --port 9000 --max-model-len 4096", "tessera chat model-Q8_0.gguf",
      'tessera run "Tell me a story about a fox who finds a lantern."',
    ));

  addEngineFlags(program.command("serve").description("serve a model over OpenAI's API").argument("[model]", modelHelp)
    .option("--host <host>", "address to listen on; 0.0.0.0 lets other machines in", "127.0.0.1")
    .option("--port <port>", "port to listen on; 0 takes a free one", parsePort, 8000)
    .option("--api-key <key>", "a key that requests to every route but /health need; may be repeated (default: TESSERA_API_KEY, if set)", collect)
    .option("--served-model-name <name>", "a name by which requests may ask for the model; may be repeated", collect)
    .option("--skip-tokenizer-init", "load no tokenizer: prompts and answers are token ids")
    .option("--seed <n>", "where the seeds of requests without one come from (default: drawn anew at each start)", parseInteger)
    .option("--max-num-queued-reqs <n>", "requests that may wait beyond those that run; more are refused by 429", parseCount, limits.queuedRequests)
    .option("--max-num-queued-tokens <n>", "tokens of prompts that may wait; more are refused by 429", parseCount, limits.queuedTokens)
    .option("--shutdown-timeout <seconds>", "how long running requests may finish after SIGTERM", parseSeconds, 10)
    .option("--enable-log-requests", "a log line for each request, without its text")
    .option("--disable-log-stats", "no log lines of throughput"))
    .addHelpText("after", examples(
      "tessera serve", "tessera serve ./my-model --dtype float32 --port 9000",
      "tessera serve org/name --max-model-len 4096 --kv-cache-memory-bytes 512M --api-key secret",
    ))
    .action(async (model: string | undefined, flags) => (await import("./serve.ts")).runServe(model, flags));

  addSamplingFlags(addEngineFlags(program.command("chat").description("talk with a model at the terminal").argument("[model]", modelHelp)
    .option("--system <text>", "what the model is told first")))
    .addHelpText("after", examples("tessera chat", "tessera chat ./my-model --temperature 0", 'echo "What is 3 plus 4?" | tessera chat'))
    .action(async (model: string | undefined, flags) => (await import("./chat.ts")).runChat(model, flags));

  addSamplingFlags(addEngineFlags(program.command("run").description("answer one prompt").usage('[options] [model] "prompt"')
    .argument("<model-or-prompt>", "the prompt, or the model when a prompt follows").argument("[prompt]", 'the prompt; "-" reads it from stdin')
    .option("--system <text>", "what the model is told first")
    .option("--raw", "continue the prompt as it is, without the chat template")))
    .addHelpText("after", examples(
      'tessera run "Tell me a story about a fox who finds a lantern."', 'tessera run ./my-model "Hello" --max-tokens 50 --temperature 0',
      'tessera run --raw "Once upon a time"',
    ))
    .action(async (first: string, second: string | undefined, flags) => (await import("./run.ts")).runOnce(first, second, flags));

  program.command("inspect").description("show what the compiler makes of the mods in a file: blocks, cost, time, code; or what a .gguf file holds")
    .argument("<file>", "a module that exports mods made with maskMod, scoreMod, weightMod or outputMod; or a model's .gguf file")
    .option("--lengths <n>", "positions, or queries x keys such as 128x4096", parseLengths, [1024, 1024] as const)
    .option("--block-size <n>", "queries and keys of the blocks that are counted and drawn; 64 unless that makes too many", parseInteger)
    .option("--heads <n>", "query heads", parseInteger, 1)
    .option("--head-dim <n>", "elements of a head", parseInteger, 64)
    .option("--threads <n>", "threads to measure on", parseInteger, 1)
    .option("--export <name>", "only this export of the file")
    .option("--svg <file>", "draw the blocks into this file")
    .addOption(new Option("--code <device>", "print the kernel compiled for this device, and measure there").choices(["wasm", "reference"]))
    .addHelpText("after", examples("tessera inspect examples/my-mod.ts", "tessera inspect my-mod.ts --lengths 4096 --block-size 128 --svg my-mod.svg", "tessera inspect my-mod.ts --code wasm", "tessera inspect model-Q8_0.gguf"))
    .action(async (file: string, flags) => (await import("./inspect.ts")).runInspect(file, flags));
  addBench(program, modelHelp);
  for (const command of program.commands) command.showHelpAfterError(`(tessera ${command.name()} --help shows its flags)`);
  return program;
}

/** Started by a launcher: when it is gone (the channel closes), nobody is left to stop this process. */
function followLauncher(): void {
  if (process.env["TESSERA_LAUNCHED"] !== "1" || !process.channel) return;
  delete process.env["TESSERA_LAUNCHED"];
  process.on("disconnect", () => process.kill(process.pid, "SIGTERM"));
  process.channel.unref();
}

// A reader that has enough (`tessera run ... | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
followLauncher();
try {
  await createProgram().parseAsync();
} catch (error) {
  const theirs = [UsageError, BadRequest, GenerationFailed, CommanderError].some((kind) => error instanceof kind);
  console.error(theirs ? `tessera: ${flagNames((error as Error).message)}` : error);
  process.exitCode = 1;
}
// What is left open now (a socket kept alive by a download) is nobody's business any more.
process.exit();
