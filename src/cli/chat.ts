/**
 * `tessera chat`: a conversation. Messages come from a terminal, a pipe or a file (terminal.ts); answers stream to stdout. It keeps
 * the turns, and drops the oldest when they outgrow the model.
 */
import { BadRequest } from "../core/errors.ts";
import { LLM } from "../llm.ts";
import type { Generation, GenerationResult } from "../llm/generation.ts";
import { describe } from "./describe.ts";
import { engineOptions, flagOf, spelledParams, type EngineFlags, type SamplingFlags } from "./options.ts";
import { createProgress } from "./progress.ts";
import { speedLine } from "./speed.ts";
import { openTerminal, type Terminal } from "./terminal.ts";

export interface ChatFlags extends EngineFlags, SamplingFlags {
  readonly system?: string;
}

/** A type, not an interface: the library's messages have open fields, which only a type fits. */
type Turn = {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
};

/** Answers the last of `turns`. */
export type Ask = (turns: readonly Turn[]) => Pick<Generation, "cancel" | "then" | typeof Symbol.asyncIterator>;

const seconds = () => performance.now() / 1000;
const help = [
  "/help   this list", "/reset  forget the conversation", "/exit   leave (so does Ctrl-D)", "Ctrl-C  stop an answer",
  "\\       at the end of a line: the message goes on in the next (so it does in pasted lines)",
];

/** Holds a conversation until the messages end or somebody leaves. */
export async function converse(ask: Ask, terminal: Terminal, system?: string): Promise<void> {
  const opening: readonly Turn[] = system === undefined ? [] : [{ role: "system", content: system }];
  let turns: readonly Turn[] = opening;
  const commands: Readonly<Record<string, () => boolean>> = {
    "/exit": () => false,
    "/quit": () => false,
    "/help": () => (terminal.note(help.join("\n")), true),
    "/reset": () => ((turns = opening), terminal.note("forgotten; this is a new conversation"), true),
  };
  terminal.prompt();
  for await (const message of terminal.messages) {
    const said = message.trim();
    if (/^\/\w*( .*)?$/.test(said)) {
      const command = commands[said];
      if (!command) terminal.note(`there is no command ${said}; /help lists them`);
      else if (!command()) return;
    } else if (said) {
      turns = await answer(ask, terminal, opening, [...turns, { role: "user", content: said }]);
    }
    terminal.prompt();
  }
}

/** The turns after one answer. Old exchanges are dropped, two turns at a time, while the conversation is too long for the model. */
async function answer(
  ask: Ask, terminal: Terminal, opening: readonly Turn[], turns: readonly Turn[],
): Promise<readonly Turn[]> {
  try {
    const { text } = await stream(ask, terminal, turns);
    return [...turns, { role: "assistant", content: text }];
  } catch (error) {
    if (!(error instanceof BadRequest)) throw error;
    const rest = turns.slice(opening.length + 2);
    if (error.param === "messages" && rest.length > 0) {
      terminal.note("the conversation is longer than the model's context: forgetting its oldest exchange");
      return answer(ask, terminal, opening, [...opening, ...rest]);
    }
    terminal.note(error.message);
    return turns.slice(0, -1);
  }
}

async function stream(ask: Ask, terminal: Terminal, turns: readonly Turn[]): Promise<GenerationResult> {
  const startedAt = seconds();
  const generation = ask(turns);
  terminal.onInterrupt(() => generation.cancel());
  let firstAt: number | undefined;
  let ended = false;
  try {
    for await (const { text } of generation) {
      firstAt ??= seconds();
      terminal.write(text);
    }
    const result = await generation;
    ended = true;
    terminal.write("\n");
    terminal.note(speedLine(result, startedAt, firstAt ?? seconds(), seconds()));
    return result;
  } finally {
    // Where it failed in the middle: what is said of that gets a line of its own.
    if (!ended && firstAt !== undefined) terminal.write("\n");
    terminal.onInterrupt(undefined);
  }
}

export async function runChat(model: string | undefined, flags: ChatFlags): Promise<void> {
  const params = spelledParams(flags);
  const progress = createProgress(process.stderr, seconds);
  // Here --seed is the answers', not the engine's.
  const { seed: _, ...engineFlags } = flags;
  const options = { ...(await engineOptions(engineFlags)), ...(process.stderr.isTTY && { onProgress: progress.report }) };
  await using llm = await LLM.load(model, options).finally(progress.finish);
  const checked = llm.check(params, flagOf);
  const terminal = openTerminal(process.stdin, process.stdout, process.stderr);
  try {
    if (terminal.interactive) {
      // In raw mode Ctrl-C is a key; a signal comes from elsewhere, and must not leave the terminal raw.
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => terminal.close());
      terminal.note([`${llm.name}: ${describe(llm.info)[0]!.replace(/^model +/, "")}`, "/help lists commands"].join("\n"));
    }
    await converse((turns) => llm.startChat(turns, checked, {}), terminal, flags.system);
  } finally {
    terminal.close();
  }
}
