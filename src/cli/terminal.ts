/**
 * Where a conversation is held: at a terminal by a person, or over pipes.
 *
 *   keys ── gate ──▶ readline ── lines ──▶ MessageLines ── messages ──▶ the conversation
 *             │ shut while an answer is written: what is typed then is kept unseen, and stands at the next prompt
 *
 * It knows no model: what Ctrl-C and Ctrl-D end is told by `onInterrupt`.
 */
import { createInterface } from "node:readline";
import { PassThrough, type Readable, type Writable } from "node:stream";
import { Queue } from "../core/queue.ts";
import { WordWrap } from "./wrap.ts";

/** What a conversation is held with: tests hand in strings. */
export interface Terminal {
  /** What is said, a message at a time. Ends when somebody leaves. */
  readonly messages: AsyncIterable<string>;
  readonly interactive: boolean;
  /** The conversation itself. */
  write(text: string): void;
  /** What is about it: hints and speed. */
  note(text: string): void;
  /** Shows that a message is awaited. */
  prompt(): void;
  /** Registers what ends the answer under way: Ctrl-C, or leaving. */
  onInterrupt(action: (() => void) | undefined): void;
}

export type OpenTerminal = Terminal & { close(): void };
export type Input = Readable & { readonly isTTY?: boolean; setRawMode?(on: boolean): unknown };
export type Output = Writable & { readonly isTTY?: boolean; readonly columns?: number };

/** Lines that arrive within this time were pasted: nobody types so fast. */
const pasteMs = 20;
const bracketedPaste = (on: boolean): string => `\x1b[?2004${on ? "h" : "l"}`;
const ctrlC = "\x03";
const ctrlD = "\x04";

/** Lines to messages: a trailing backslash goes on with the next line, and lines that come within `windowMs` are one message. */
export class MessageLines {
  readonly messages = new Queue<string>();
  readonly #windowMs: number;
  readonly #onMessage: () => void;
  #held: string[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** `onMessage` is called as each one is complete. */
  constructor(windowMs: number, onMessage: () => void = () => {}) {
    this.#windowMs = windowMs;
    this.#onMessage = onMessage;
  }

  /** Whether a message has begun that is not complete. */
  get open(): boolean {
    return this.#held.length > 0;
  }

  /** Takes a line; `goesOn` when it is known that more belongs to it. Returns whether the message waits for more. */
  push(line: string, goesOn = false): boolean {
    clearTimeout(this.#timer);
    const continued = line.endsWith("\\");
    this.#held.push(continued ? line.slice(0, -1) : line);
    if (continued || goesOn) return true;
    if (this.#windowMs === 0) this.#send();
    else this.#timer = setTimeout(() => this.#send(), this.#windowMs);
    return false;
  }

  /** Forgets what has begun. */
  drop(): void {
    clearTimeout(this.#timer);
    this.#held = [];
  }

  /** No more lines; what has begun is the last message. */
  end(): void {
    clearTimeout(this.#timer);
    if (this.open) this.#send();
    this.messages.end();
  }

  #send(): void {
    this.messages.push(this.#held.join("\n"));
    this.#held = [];
    this.#onMessage();
  }
}

/** A terminal where both ends are one; elsewhere lines in, and stdout holds answers only: notes go to stderr. */
export function openTerminal(stdin: Input, stdout: Output, stderr: Writable): OpenTerminal {
  return stdin.isTTY && stdout.isTTY ? atTerminal(stdin, stdout) : overPipes(stdin, stdout, stderr);
}

function overPipes(stdin: Input, stdout: Output, stderr: Writable): OpenTerminal {
  const lines = new MessageLines(0);
  const reader = createInterface({ input: stdin });
  reader.on("line", (line) => lines.push(line));
  reader.on("close", () => lines.end());
  return {
    messages: lines.messages,
    interactive: false,
    write: (text) => void stdout.write(text),
    note: (text) => void stderr.write(`${text}\n`),
    prompt() {},
    onInterrupt() {},
    close: () => reader.close(),
  };
}

function atTerminal(stdin: Input, stdout: Output): OpenTerminal {
  /** Readline hears what is typed only while a message is awaited: it writes every key to the screen. */
  let awaiting = false;
  let typedAhead = "";
  let pasting = false;
  let warned = false;
  let left = false;
  let interrupt: (() => void) | undefined;
  const words = new WordWrap(() => stdout.columns || undefined);
  const keys = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (on: boolean) => stdin.setRawMode?.(on) });
  const reader = createInterface({ input: keys, output: stdout, terminal: true });
  const lines = new MessageLines(pasteMs, () => {
    awaiting = false;
    // The start of a next line, pasted without its end: it stands at the next prompt.
    if (reader.line !== "") stdout.write("\r\x1b[K");
  });
  const note = (text: string): void => void stdout.write(`\x1b[2m${text}\x1b[0m\n`);
  const ask = (sign: string): void => {
    reader.setPrompt(sign);
    reader.prompt(true);
  };

  const onTyped = (data: string | Buffer): void => {
    const text = String(data);
    if (awaiting) keys.write(text);
    else if (text.includes(ctrlC)) {
      typedAhead = "";
      interrupt?.();
    } else if (text.includes(ctrlD)) leave();
    else typedAhead += text;
  };
  const leave = (): void => {
    if (left) return;
    left = true;
    if (awaiting) stdout.write("\n");
    lines.drop();
    lines.end();
    stdin.off("data", onTyped);
    stdin.pause();
    reader.close();
    stdout.write(bracketedPaste(false));
    interrupt?.();
  };

  reader.on("line", (line) => {
    if (lines.push(line, pasting) && !pasting) ask("… ");
  });
  reader.on("SIGINT", () => {
    if (reader.line !== "" || lines.open) {
      const begun = lines.open;
      lines.drop();
      reader.write(null, { ctrl: true, name: "e" });
      reader.write(null, { ctrl: true, name: "u" });
      if (begun) stdout.write("\n");
      ask("> ");
    } else if (warned) leave();
    else {
      warned = true;
      stdout.write("\n");
      note("press Ctrl-C again or /exit to leave");
      ask("> ");
    }
  });
  reader.on("close", leave);
  keys.on("keypress", (_, { name, ctrl }: { readonly name?: string; readonly ctrl?: boolean }) => {
    if (!(ctrl && name === "c")) warned = false;
    if (name === "paste-start") pasting = true;
    if (name !== "paste-end") return;
    pasting = false;
    // Lines were pasted: they are sent when Enter is pressed.
    if (lines.open) ask("… ");
  });
  stdin.setEncoding("utf8");
  stdin.on("data", onTyped);
  stdin.on("end", leave);
  stdout.write(bracketedPaste(true));
  return {
    messages: lines.messages,
    interactive: true,
    write: (text) => void stdout.write(words.push(text)),
    note,
    prompt() {
      if (left) return;
      awaiting = true;
      ask("> ");
      const ahead = typedAhead;
      typedAhead = "";
      if (ahead !== "") keys.write(ahead);
    },
    onInterrupt(action) {
      interrupt = action;
      if (left) action?.();
    },
    close: leave,
  };
}
