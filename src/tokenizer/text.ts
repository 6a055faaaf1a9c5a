/**
 * The text service: encoding and chat templates in a thread of their own, so that whoever serves HTTP never computes.
 *
 * Jobs are done in order. A job that takes longer than the limit, or takes the worker down (memory), costs its own request
 * only: the worker is replaced, that request gets a BadRequest, and the jobs behind it are done by the new one.
 * Decoding is cheap and happens on the caller's thread. Knows no files: they come in as strings.
 */
import { spawn } from "#thread";
import { BadRequest, UsageError, invariant } from "../core/errors.ts";
import type { Thread } from "../core/thread.ts";
import type { ChatMessage, RenderOptions } from "./chat-template.ts";
import { loadChatTemplate } from "./chat-template.ts";
import type { TextFiles } from "./files.ts";
import type { DecoderOptions, StreamDecoder } from "./stream-decoder.ts";
import type { Encoded, Job, Order, Reply } from "./text-jobs.ts";
import { fieldOf, fromFault, runJob } from "./text-jobs.ts";
import type { EncodeOptions } from "./tokenizer.ts";
import { loadTokenizer } from "./tokenizer.ts";

export type { ChatMessage, RenderOptions } from "./chat-template.ts";
export type { TextFiles } from "./files.ts";
export { textFileNames } from "./files.ts";
export type { DecoderOptions, StreamDecoder } from "./stream-decoder.ts";
export type { Encoded } from "./text-jobs.ts";

export interface TextService {
  /**
   * Token ids of `text`, int32 [numTokens]. By default with the special tokens that the model expects around a text
   * (`addSpecialTokens`), and with "<bos>" and the like inside it read as plain text (`allowSpecial`).
   */
  encode(text: string, options?: Pick<EncodeOptions, "addSpecialTokens" | "allowSpecial">): Promise<Int32Array>;
  /**
   * Token ids and text of `messages`, by the model's chat template. Contents never become special tokens. Rejects with BadRequest
   * (`messages`), or UsageError without a template.
   */
  encodeChat(messages: readonly ChatMessage[], options?: RenderOptions): Promise<Encoded>;
  /** Ids to text as they come; on the caller's thread. */
  decoder(options?: DecoderOptions): StreamDecoder;
  decode(ids: ArrayLike<number>, options?: DecoderOptions): string;
  /** Text of many ids, special tokens written out; in the worker, like encoding. `ids` is copied. */
  detokenize(ids: Int32Array): Promise<string>;
  /** A token as the vocabulary writes it; undefined for an id that it does not have. */
  tokenString(id: number): string | undefined;
  readonly vocabSize: number;
  readonly eosIds: readonly number[];
  readonly hasChatTemplate: boolean;
  /** Ends the worker; jobs under way are rejected. */
  close(): void;
}

export interface TextOptions {
  /** Work on the caller's thread: for tests and for places without workers. There is then no limit on time. */
  readonly inProcess?: boolean;
  /** Most milliseconds for one job. Default 10,000. */
  readonly limitMs?: number;
}

/** Starts the service for a model's `files`. Throws UsageError where they are missing, damaged or of a kind that is not known. */
export async function startText(files: TextFiles, { inProcess = false, limitMs = 10_000 }: TextOptions = {}): Promise<TextService> {
  const tokenizer = loadTokenizer(files);
  const template = loadChatTemplate(files, tokenizer.specialTokens);
  const lane = inProcess ? undefined : new Lane(files, limitMs);
  const run = async (job: Job): Promise<Encoded> => (lane === undefined ? runJob(job, tokenizer, template) : lane.submit(job));
  return {
    encode: async (text, options = {}) => (await run({ kind: "encode", text, options })).ids,
    encodeChat: (messages, options = {}) => run({ kind: "chat", messages, options }),
    decoder: (options) => tokenizer.decoder(options),
    decode: (ids, options) => tokenizer.decode(ids, options),
    detokenize: async (ids) => (await run({ kind: "decode", ids })).text,
    tokenString: (id) => tokenizer.idToToken(id),
    vocabSize: tokenizer.vocabSize,
    eosIds: tokenizer.eosIds,
    hasChatTemplate: template !== undefined,
    close: () => lane?.close(),
  };
}

interface Waiting extends Order {
  resolve(result: Encoded): void;
  reject(error: Error): void;
}

/** Longest that a worker may take to come up, on a machine that has other things to do. */
const startMs = 30_000;

/** One worker and the jobs given to it, oldest first; the worker is at the first of them. */
class Lane {
  readonly #files: TextFiles;
  readonly #limitMs: number;
  readonly #jobs: Waiting[] = [];
  #thread: Thread | undefined;
  #ready = false;
  #closed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #nextId = 0;

  constructor(files: TextFiles, limitMs: number) {
    this.#files = files;
    this.#limitMs = limitMs;
    this.#thread = this.#start();
  }

  submit(job: Job): Promise<Encoded> {
    if (this.#closed) return Promise.reject(new UsageError("the text service is closed"));
    return new Promise((resolve, reject) => {
      const waiting: Waiting = { id: this.#nextId++, job, resolve, reject };
      this.#thread ??= this.#start();
      // Posting comes first: it throws on what cannot be cloned (a function in the messages), and then nothing waits.
      this.#post(waiting);
      this.#jobs.push(waiting);
      if (this.#jobs.length === 1) this.#watch();
    });
  }

  close(): void {
    this.#closed = true;
    void this.#thread?.terminate();
    this.#thread = undefined;
    clearTimeout(this.#timer);
    for (const waiting of this.#jobs.splice(0)) waiting.reject(new UsageError("the text service was closed before it came to this request"));
  }

  #start(): Thread {
    const url = new URL(import.meta.url.endsWith(".ts") ? "./text-worker.ts" : "./text-worker.js", import.meta.url);
    const thread = spawn(url, this.#files);
    this.#ready = false;
    thread.onMessage((message) => void (thread === this.#thread && this.#receive(message as Reply)));
    // One that was terminated here is no longer the lane's thread.
    thread.onExit((reason) => void (thread === this.#thread && this.#died(reason)));
    thread.unref(); // Last: Node's workers hold the process again once they are listened to.
    return thread;
  }

  #post({ id, job }: Waiting): void {
    this.#thread!.post({ id, job } satisfies Order);
  }

  /** Times the first job, once the worker is up: no job is to blame for how long that takes. The timer also keeps the process alive while somebody waits, which the worker does not. */
  #watch(): void {
    clearTimeout(this.#timer);
    if (this.#jobs.length === 0) return;
    this.#timer = setTimeout(() => {
      void this.#thread?.terminate();
      this.#drop(`took longer than ${this.#limitMs / 1000} s to turn into tokens or text`);
    }, this.#ready ? this.#limitMs : this.#limitMs + startMs);
  }

  #receive(reply: Reply): void {
    if (reply.kind === "ready") {
      this.#ready = true;
      this.#watch();
      return;
    }
    const waiting = this.#jobs.shift();
    invariant(waiting?.id === reply.id, "the text worker answers in order");
    this.#watch();
    if (reply.kind === "done") waiting.resolve(reply.result);
    else waiting.reject(fromFault(reply.fault));
  }

  #died(why: string): void {
    if (this.#ready) {
      this.#drop(`could not be turned into tokens (the text worker died: ${why})`);
      return;
    }
    // It never came up: another one would not either.
    this.#thread = undefined;
    clearTimeout(this.#timer);
    for (const waiting of this.#jobs.splice(0)) waiting.reject(new Error(`the text worker does not start: ${why}`));
  }

  /** The worker is gone: its job is refused, and a new worker gets the others. */
  #drop(why: string): void {
    const culprit = this.#jobs.shift();
    this.#thread = this.#start();
    for (const waiting of this.#jobs) this.#post(waiting);
    this.#watch();
    if (culprit === undefined) return;
    const field = fieldOf[culprit.job.kind];
    culprit.reject(new BadRequest(field, `${field} ${why}; send less at once`));
  }
}
