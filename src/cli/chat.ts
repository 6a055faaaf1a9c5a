/**
 * `tessera chat`: a conversation at the terminal. Lines come from stdin, be it a person, a pipe or a file; answers stream to
 * stdout. Ctrl-C ends an answer, and at the prompt the program.
 */
import { createInterface } from "node:readline";
import { BadRequest } from "../core/errors.ts";
import { LLM } from "../llm.ts";
import type { GenerationResult } from "../llm/generation.ts";
import type { GenerateParams } from "../llm/params.ts";
import { describe } from "./describe.ts";
import { engineOptions, samplingParams, type EngineFlags, type SamplingFlags } from "./options.ts";
import { createProgress } from "./progress.ts";
import { speedLine } from "./speed.ts";

export interface ChatFlags extends EngineFlags, SamplingFlags {
  readonly system?: string;
}

/** A type, not an interface: the library's messages have open fields, which only a type fits. */
type Turn = {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
};

/** What a conversation is held with: tests hand in strings. */
export interface Terminal {
  readonly lines: AsyncIterable<string>;
  readonly interactive: boolean;
  /** The conversation itself. */
  write(text: string): void;
  /** What is about it: hints and speed. */
  note(text: string): void;
  /** Shows that a line is awaited. */
  prompt(): void;
  /** Registers what Ctrl-C does now; undefined gives it back its usual meaning. */
  onInterrupt(action: (() => void) | undefined): void;
}

const seconds = () => performance.now() / 1000;
const help = ["/help   this list", "/reset  forget the conversation", "/exit   leave (so does Ctrl-D)", "Ctrl-C  stop an answer"];

/** Holds a conversation until the lines end or somebody leaves. */
export async function converse(llm: Pick<LLM, "chat">, terminal: Terminal, params: GenerateParams, system?: string): Promise<void> {
  const opening: readonly Turn[] = system === undefined ? [] : [{ role: "system", content: system }];
  let turns: readonly Turn[] = opening;
  const commands: Readonly<Record<string, () => boolean>> = {
    "/exit": () => false,
    "/quit": () => false,
    "/help": () => (terminal.note(help.join("\n")), true),
    "/reset": () => ((turns = opening), terminal.note("forgotten; this is a new conversation"), true),
  };
  terminal.prompt();
  for await (const line of terminal.lines) {
    const said = line.trim();
    if (said.startsWith("/")) {
      const command = commands[said];
      if (!command) terminal.note(`there is no command ${said}; /help lists them`);
      else if (!command()) return;
    } else if (said) {
      turns = await answer(llm, terminal, params, opening, [...turns, { role: "user", content: said }]);
    }
    terminal.prompt();
  }
}

/** The turns after one answer. Old exchanges are dropped, two turns at a time, while the conversation is too long for the model. */
async function answer(
  llm: Pick<LLM, "chat">, terminal: Terminal, params: GenerateParams, opening: readonly Turn[], turns: readonly Turn[],
): Promise<readonly Turn[]> {
  try {
    const { text } = await stream(llm, terminal, params, turns);
    return [...turns, { role: "assistant", content: text }];
  } catch (error) {
    if (!(error instanceof BadRequest)) throw error;
    const rest = turns.slice(opening.length + 2);
    if (error.param === "messages" && rest.length > 0) {
      terminal.note("the conversation is longer than the model's context: forgetting its oldest exchange");
      return answer(llm, terminal, params, opening, [...opening, ...rest]);
    }
    terminal.note(error.message);
    return turns.slice(0, -1);
  }
}

async function stream(llm: Pick<LLM, "chat">, terminal: Terminal, params: GenerateParams, turns: readonly Turn[]): Promise<GenerationResult> {
  const startedAt = seconds();
  const generation = llm.chat(turns, params);
  terminal.onInterrupt(() => generation.cancel());
  let firstAt: number | undefined;
  try {
    for await (const { text } of generation) {
      firstAt ??= seconds();
      terminal.write(text);
    }
    const result = await generation;
    terminal.write("\n");
    terminal.note(speedLine(result, startedAt, firstAt ?? seconds(), seconds()));
    return result;
  } finally {
    terminal.onInterrupt(undefined);
  }
}

/** stdin and stdout; dimmed notes on a terminal, and elsewhere on stderr so that stdout holds answers only. */
function openTerminal(): Terminal & { close(): void } {
  const interactive = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  const reader = createInterface({ input: process.stdin, terminal: interactive, prompt: "> ", ...(interactive && { output: process.stdout }) });
  let interrupt: (() => void) | undefined;
  reader.on("SIGINT", () => (interrupt ?? (() => reader.close()))());
  return {
    interactive,
    lines: reader,
    write: (text) => void process.stdout.write(text),
    note: (text) => void (interactive ? process.stdout.write(`\x1b[2m${text}\x1b[0m\n`) : process.stderr.write(`${text}\n`)),
    prompt: () => void (interactive && reader.prompt()),
    onInterrupt: (action) => (interrupt = action),
    close: () => reader.close(),
  };
}

export async function runChat(model: string | undefined, flags: ChatFlags): Promise<void> {
  const progress = createProgress(process.stderr, seconds);
  // Here --seed is the answers', not the engine's.
  const { seed: _, ...engineFlags } = flags;
  const options = { ...(await engineOptions(engineFlags)), ...(process.stderr.isTTY && { onProgress: progress.report }) };
  await using llm = await LLM.load(model, options).finally(progress.finish);
  const terminal = openTerminal();
  try {
    if (terminal.interactive) terminal.note([`${llm.name}: ${describe(llm.info)[0]!.replace(/^model +/, "")}`, "/help lists commands"].join("\n"));
    await converse(llm, terminal, samplingParams(flags), flags.system);
  } finally {
    terminal.close();
  }
}
