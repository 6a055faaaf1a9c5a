/** How the tokens of one request are chosen and when they end: vLLM's SamplingParams, its names (in camelCase) and defaults. */
export interface SamplingParams {
  /** 0 (below 1e-5) takes the likeliest token. Default 1. */
  readonly temperature: number;
  /** Keep the likeliest tokens whose probabilities sum to this. In (0, 1]; default 1. */
  readonly topP: number;
  /** Keep this many of the likeliest tokens; 0 keeps all. */
  readonly topK: number;
  /** Keep tokens at least this fraction as likely as the likeliest. In [0, 1]; default 0. */
  readonly minP: number;
  /** Same seed, same prompt, same tokens. Any safe integer; drawn by the engine's own seed when undefined. */
  readonly seed: number | undefined;
  /** Most tokens to generate. */
  readonly maxTokens: number;
  /** Token ids that end the output, besides the model's own end tokens. */
  readonly stopTokenIds: readonly number[];
  /** Go on past the model's end tokens. */
  readonly ignoreEos: boolean;
  /** Log-probabilities of this many likeliest tokens beside the chosen one; undefined gives none. */
  readonly logprobs: number | undefined;
}

export const defaultSampling: SamplingParams = {
  temperature: 1, topP: 1, topK: 0, minP: 0, seed: undefined, maxTokens: 16, stopTokenIds: [], ignoreEos: false, logprobs: undefined,
};
