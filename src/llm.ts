/**
 * LLM: text in, text out. Joins a tokenizer and an engine; it is all that the server and the command line know of either.
 *
 *   await using llm = await LLM.load();
 *   for await (const { text } of llm.chat([{ role: "user", content: "Hello" }])) process.stdout.write(text);
 *   const { text, usage } = await llm.generate("Once upon a time", { maxTokens: 32, seed: 1 });
 *
 * It knows no HTTP, and of tensors only that they exist behind the engine.
 */
import type { AttentionOverride, AttentionOverrideData } from "./attention/override.ts";
import { BadRequest, UsageError } from "./core/errors.ts";
import type { EngineClient } from "./engine/client.ts";
import { prepareEngine, startEngine, startEngineHere, type EngineEvent, type EngineOptions, type Progress } from "./engine/start.ts";
import type { EngineInfo, Standing, Stats } from "./engine/messages.ts";
import { readSpeculativeConfig } from "./engine/speculative-config.ts";
import { camelCase, mustBe, tokenIds, type Raw } from "./llm/fields.ts";
import { Generation, readOutput } from "./llm/generation.ts";
import { findModel, withChatTemplate } from "./llm/find-model.ts";
import { generationDefaults } from "./llm/generation-defaults.ts";
import { checkMessages, checkOptions, unknownOption } from "./llm/known.ts";
import { badWordIds } from "./llm/bad-words.ts";
import { checkParams, fitMaxTokens, generateOptions, type CheckedParams, type GenerateParams } from "./llm/params.ts";
import { defaultSampling } from "./sampling/params.ts";
import { startText, type ChatMessage, type TextService } from "./tokenizer/text.ts";
import type { HubOptions } from "./weights/hub.ts";

/** How a model is loaded. vLLM's names and meanings. */
export interface LoadOptions extends Omit<Partial<EngineOptions>, "model" | "eosTokenIds" | "attention" | "seed"> {
  /** Where the seeds of requests without one come from: the same seed gives the same answers to the same requests in the same order. Default: drawn anew by each load. */
  readonly seed?: number;
  /**
   * Mods in place of the model's own attention, for all layers or by layer: `{ maskMod: (own) => and(own.maskMod, mine) }`. Captured
   * numbers and arrays are read now; what lives in a SharedArrayBuffer may be written to while the model runs.
   */
  readonly attention?: AttentionOverride;
  /** Load no tokenizer: prompts are token ids, results have no text. For checkpoints that have none. */
  readonly skipTokenizerInit?: boolean;
  /**
   * The engine runs in this thread, which then does nothing else while a step of the model is computed, in place of a thread (on a GPU a process) of its
   * own. For `logitsProcessors`: functions do not cross to another thread. Default false.
   */
  readonly inProcess?: boolean;
  /** A chat template (Jinja) in place of the model's own: a file's path, or the template itself. */
  readonly chatTemplate?: string;
  /** "auto" (the default) takes sampling defaults from the model's generation_config.json; "vllm" takes none. */
  readonly generationConfig?: "auto" | "vllm";
  /** Where `org/name` comes from and is kept (default: the public hub, this user's cache), and a token for private and gated models. */
  readonly hub?: Omit<HubOptions, "onProgress">;
  /** Called as work goes on, in bytes: stages are "downloading config.json" and the like, then "loading weights". */
  readonly onProgress?: Progress;
  /** Called when the engine has died, when another has taken its place (requests in flight go on with it), and when there will be no other. */
  readonly onEngineEvent?: (event: EngineEvent) => void;
}

/** What `chat` takes beside what `generate` does. */
export interface ChatParams extends GenerateParams {
  /** End the prompt with the start of an assistant's turn. Default true, and false when the final message is continued. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** Go on with the last message instead of answering it. Default false. */
  readonly continueFinalMessage?: boolean | undefined;
  /** Further variables for the chat template. */
  readonly templateKwargs?: Readonly<Record<string, unknown>> | undefined;
}

export type TemplateOptions = Pick<ChatParams, "addGenerationPrompt" | "continueFinalMessage" | "templateKwargs">;

/** Every name there is, for callers whom no type checker helps. */
const loadOptions = Object.keys({
  dtype: true, quantization: true, loadFormat: true, gpuMemoryUtilization: true, device: true, threads: true, deterministic: true, seed: true, maxModelLen: true, maxNumSeqs: true, maxNumBatchedTokens: true, blockSize: true, kvCacheBytes: true, kvCacheDtype: true, enablePrefixCaching: true, schedulingPolicy: true, speculativeConfig: true,
  attention: true, skipTokenizerInit: true, inProcess: true, chatTemplate: true, generationConfig: true, hub: true, onProgress: true, onEngineEvent: true,
} satisfies Readonly<Record<keyof LoadOptions, true>>);
const chatOptions = [...generateOptions, ...Object.keys({
  addGenerationPrompt: true, continueFinalMessage: true, templateKwargs: true,
} satisfies Readonly<Record<Exclude<keyof ChatParams, keyof GenerateParams>, true>>)];

/** 32 bits: a person may have to type it. */
const drawSeed = (): number => globalThis.crypto.getRandomValues(new Uint32Array(1))[0]!;

export type Prompt = string | readonly number[] | Int32Array;

/** The parts of an LLM, each already started. */
export interface Parts {
  readonly name: string;
  readonly engine: EngineClient;
  /** undefined: token ids only. */
  readonly text: TextService | undefined;
  /** Used where a caller says nothing. */
  readonly defaults?: GenerateParams;
  /** What the engine was given as its seed. */
  readonly seed?: number;
}

export class LLM implements AsyncDisposable {
  /** The model's name as it was asked for; a GGUF file's without folder and ending; "demo" for the built-in one. */
  readonly name: string;
  readonly info: EngineInfo;
  /** Where the seeds of requests without one come from; undefined when whoever started the engine did not say. */
  readonly seed: number | undefined;
  readonly #engine: EngineClient;
  readonly #text: TextService | undefined;
  readonly #defaults: Raw;
  #numFamilies = 0;
  readonly #badWords = new WeakMap<readonly string[], Promise<readonly (readonly number[])[]>>();

  /** Joins parts that are already started. Most callers want `LLM.load`. */
  constructor({ name, engine, text, seed, defaults = {} }: Parts) {
    this.name = name;
    this.seed = seed;
    this.info = engine.info;
    this.#engine = engine;
    this.#text = text;
    this.#defaults = { ...defaults };
  }

  /**
   * Loads `model`: a folder in Hugging Face layout, a GGUF file, or `org/name` of the hub; the built-in demo model when left out.
   * Throws UsageError when it cannot be found, is of a kind not supported, or does not fit into memory, and for an unknown option.
   */
  static async load(model?: string, options: LoadOptions = {}): Promise<LLM> {
    const unknown = unknownOption(options, loadOptions, "LLM.load");
    if (unknown) throw new UsageError(unknown.message);
    const { skipTokenizerInit = false, inProcess = false, chatTemplate, generationConfig = "auto", hub, onProgress, onEngineEvent, attention, speculativeConfig, seed = drawSeed(), ...engineOptions } = options;
    const speculation = speculativeConfig && readSpeculativeConfig(speculativeConfig);
    if (skipTokenizerInit && chatTemplate !== undefined) {
      throw new UsageError("chatTemplate (--chat-template) needs a tokenizer, and skipTokenizerInit (--skip-tokenizer-init) loads none; leave one of them out");
    }
    const device = engineOptions.device ?? "cpu";
    const thread = inProcess ? undefined : prepareEngine({ ...engineOptions, device });
    let text: TextService | undefined;
    try {
      const hubOptions = { ...hub, ...(onProgress && { onProgress }) };
      const found = await findModel(model, !skipTokenizerInit, hubOptions);
      const guesses = speculation?.method === "draft_model" ? { ...speculation, model: (await findModel(speculation.model, false, hubOptions)).path } : speculation;
      const override = attention && (await resolveAttention(attention, found.path));
      text = skipTokenizerInit ? undefined : await startText(withChatTemplate(found.text, chatTemplate));
      // A chat's turn may end with a token that only the tokenizer's files name.
      const asked = {
        ...engineOptions, device, seed, ...(override && { attention: override }), ...(guesses && { speculativeConfig: guesses }), model: found.path, eosTokenIds: text?.eosIds ?? [],
      };
      const engine = thread ? await startEngine(asked, { thread, ...(onProgress && { onProgress }), ...(onEngineEvent && { onEvent: onEngineEvent }) }) : await startEngineHere(asked, onProgress);
      const defaults = generationConfig === "auto" ? generationDefaults(found.text["generation_config.json"]) : {};
      return new LLM({ name: found.name, engine, text, defaults, seed });
    } catch (error) {
      text?.close();
      await thread?.terminate();
      throw error;
    }
  }

  /** Continues `prompt`: text, or token ids that go to the model as they are. Throws BadRequest for a wrong parameter. */
  generate(prompt: Prompt, params: GenerateParams = {}): Generation {
    checkOptions(params, generateOptions, "generate");
    return this.startPrompt(prompt, this.check(params), "prompt", params.signal);
  }

  /** Answers `messages` through the model's chat template. Throws BadRequest for a wrong parameter. */
  chat(messages: readonly ChatMessage[], params: ChatParams = {}): Generation {
    checkOptions(params, chatOptions, "chat");
    checkMessages(messages);
    return this.startChat(messages, this.check(params), params, params.signal);
  }

  /** Parameters with this model's defaults filled in, checked. `spell` says how the caller writes field names. */
  check(params: GenerateParams | Raw, spell = camelCase): CheckedParams {
    const spelled = Object.fromEntries(Object.entries(this.#defaults).map(([field, value]) => [spell(field), value]));
    const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null);
    const checked = checkParams({ ...spelled, ...Object.fromEntries(given) }, this.info.vocabSize, spell);
    if (checked.priority !== 0 && this.info.schedulingPolicy !== "priority") {
      throw mustBe(spell("priority"), checked.priority, `0, as requests are served in the order they come; load the model with schedulingPolicy "priority" (--scheduling-policy)`);
    }
    if (checked.sampling.logitsProcessors && !this.#engine.inProcess) {
      const name = spell("logitsProcessors");
      throw new BadRequest(name, `${name} has functions, and the engine runs in a thread of its own, to which they do not cross; load the model with inProcess: true`);
    }
    return checked;
  }

  /** `generate` with parameters already checked; errors of the prompt name `field`. */
  startPrompt(prompt: Prompt, params: CheckedParams, field: string, signal?: AbortSignal): Generation {
    if (typeof prompt !== "string" && !Array.isArray(prompt) && !(prompt instanceof Int32Array)) throw mustBe(field, prompt, "text or a list of token ids");
    const { addSpecialTokens = true, allowSpecial } = params;
    const encode = async (): Promise<Int32Array> =>
      (typeof prompt === "string" ? this.encodePrompt(prompt, { addSpecialTokens, allowSpecial }, field) : Int32Array.from(tokenIds(field, prompt, this.info.vocabSize, Infinity)));
    return this.#start(encode, params, field, defaultSampling.maxTokens, signal);
  }

  /** `chat` with parameters already checked. */
  startChat(messages: readonly ChatMessage[], params: CheckedParams, template: TemplateOptions, signal?: AbortSignal): Generation {
    return this.#start(() => this.encodeChat(messages, template), params, "messages", Infinity, signal);
  }

  #start(encode: () => Promise<Int32Array>, params: CheckedParams, field: string, fallbackTokens: number, signal?: AbortSignal): Generation {
    if (!this.#text && params.stop.length > 0) {
      const name = params.spell("stop");
      throw new BadRequest(name, `${name} needs text, and no tokenizer is loaded (--skip-tokenizer-init); use ${params.spell("stopTokenIds")}`);
    }
    const { n, stop, badWords: words, includeStopStrInOutput, sampling: { promptLogprobs, ...sampling }, spell, cacheSalt, priority } = params;
    if (!this.#text && words.length > 0) {
      const name = spell("badWords");
      throw new BadRequest(name, `${name} needs a tokenizer, and none is loaded (--skip-tokenizer-init); use ${spell("logitBias")}`);
    }
    const standing: Standing = { ...(cacheSalt !== undefined && { salt: cacheSalt }), priority, ...(n > 1 && { family: String(this.#numFamilies++) }) };
    let maxTokens = 0, badWords: readonly (readonly number[])[] = [];
    return new Generation({
      encode: async () => {
        const prompt = await encode();
        maxTokens = fitMaxTokens(prompt.length, params, fallbackTokens, this.info.maxModelLen, field);
        if (this.#text && words.length > 0) badWords = await this.#badWordIds(this.#text, words);
        return prompt;
      },
      n,
      start: (prompt, index, stopped) => readOutput(this.#engine.generate(prompt, {
        ...sampling, seed: seedOfChoice(sampling.seed, index), badWords, maxTokens,
        // They are the same for every choice.
        ...(index === 0 && promptLogprobs !== undefined && { promptLogprobs }),
      }, stopped, standing), {
        index,
        decoder: this.#text?.decoder({ skipSpecialTokens: params.skipSpecialTokens, continues: field !== "messages" }),
        stop, includeStopStrInOutput, promptLogprobs: index === 0 && promptLogprobs !== undefined, spell, minTokens: sampling.minTokens,
        endTokens: new Set([...this.info.eosTokenIds, ...sampling.stopTokenIds]),
      }),
    }, signal);
  }

  /** The words of one request are encoded once, however many prompts it has. */
  #badWordIds(text: TextService, words: readonly string[]): Promise<readonly (readonly number[])[]> {
    const known = this.#badWords.get(words) ?? badWordIds(text, words);
    this.#badWords.set(words, known);
    return known;
  }

  /** Token ids that `startPrompt` gives the engine for a text; errors name `field`. Made in the text worker. */
  async encodePrompt(prompt: string, options: { readonly addSpecialTokens: boolean; readonly allowSpecial: boolean }, field: string): Promise<Int32Array> {
    if (!this.#text) throw new BadRequest(field, `${field} is text, but no tokenizer is loaded (--skip-tokenizer-init); send token ids`);
    return this.#text.encode(prompt, options);
  }

  /** Token ids that `startChat` gives the engine. Made in the text worker. Throws BadRequest where the model cannot chat. */
  async encodeChat(messages: readonly ChatMessage[], { addGenerationPrompt, continueFinalMessage, templateKwargs }: TemplateOptions): Promise<Int32Array> {
    if (!this.#text) {
      throw new BadRequest("messages", "messages need a tokenizer, and none is loaded (--skip-tokenizer-init); send token ids to /v1/completions");
    }
    if (!this.#text.hasChatTemplate) throw new BadRequest("messages", "this model has no chat template; use a prompt (/v1/completions) instead");
    return (await this.#text.encodeChat(messages, { addGenerationPrompt, continueFinalMessage, templateKwargs })).ids;
  }

  /** Text of many token ids, special ones written out. Made in the text worker; errors name `field`. */
  async detokenize(ids: Int32Array, field: string): Promise<string> {
    if (!this.#text) throw new BadRequest(field, "no tokenizer is loaded (--skip-tokenizer-init), so token ids have no text");
    return this.#text.detokenize(ids);
  }

  /** A token as the vocabulary writes it ("▁fox", "Ġfox"); "" for an id that it does not have. Throws UsageError without a tokenizer. */
  vocabularyText(id: number): string {
    return this.#needText().tokenString(id) ?? "";
  }

  /** Token ids of `text`, without the model's begin token. Throws UsageError without a tokenizer. */
  encode(text: string): Promise<Int32Array> {
    return this.#needText().encode(text, { addSpecialTokens: false, allowSpecial: false });
  }

  /** Text of token ids, special tokens left out. Throws UsageError without a tokenizer. */
  decode(ids: ArrayLike<number>): string {
    return this.#needText().decode(ids);
  }

  /** One token as it reads in the middle of a text, a special one too; "token_id:5" without a tokenizer. */
  tokenText(id: number): string {
    return this.#text?.decode([id], { skipSpecialTokens: false, continues: true }) ?? `token_id:${id}`;
  }

  /** false: token ids only. */
  get hasTokenizer(): boolean {
    return this.#text !== undefined;
  }

  get hasChatTemplate(): boolean {
    return this.#text?.hasChatTemplate ?? false;
  }

  /** What the engine last said of itself. */
  get stats(): Stats {
    return this.#engine.stats;
  }

  /** Whether there is an engine now: false while another takes the place of one that died, and once there will be none. */
  get alive(): boolean {
    return this.#engine.alive;
  }

  /** Whether another engine is being started in the place of one that died: what is asked meanwhile waits for it. */
  get restarting(): boolean {
    return this.#engine.restarting;
  }

  /** Engines that took the place of one that had died. */
  get restarts(): number {
    return this.#engine.restarts;
  }

  /** Ends what is running and gives memory and threads back. */
  async close(): Promise<void> {
    this.#text?.close();
    await this.#engine.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #needText(): TextService {
    if (!this.#text) throw new UsageError("no tokenizer is loaded (skipTokenizerInit); load the model without that option");
    return this.#text;
  }
}

/** The seed of one of several choices, as vLLM derives it; the engine draws one for each where the request has none. */
const seedOfChoice = (seed: number | undefined, index: number): number | undefined => (seed === undefined ? undefined : seed + index);

/** The mods of each layer. The compiler is loaded only where there are any: this thread does not need it otherwise. */
async function resolveAttention(attention: AttentionOverride, path: string): Promise<AttentionOverrideData> {
  const [{ resolveOverride }, { readOwnAttention }] = await Promise.all([import("./attention/override.ts"), import("./model/load.ts")]);
  return resolveOverride(attention, readOwnAttention(path));
}
